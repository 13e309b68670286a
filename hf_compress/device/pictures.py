"""Pictures as models see them, to the bit as a model's image processor makes them, with NumPy and Pillow alone."""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

MOST_PIXELS = 90_000_000  # a few bytes can hold a picture that fills the memory


def read_picture(file):
    """Decode the first frame of a picture, given by its path or as bytes.

    Returns:
        uint8 array (height, width, 3): RGB, rotated as its EXIF tag says, transparency on white. Of more than 8 bits a
        value: see `eight_bits`.

    Raises:
        Exception: it is not a whole picture, for which Pillow has many kinds of error, or it is too large.
    """
    with Image.open(io.BytesIO(file if isinstance(file, bytes) else Path(file).read_bytes())) as image:
        refuse_oversized(image)
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            image = Image.fromarray(eight_bits(np.asarray(image), image.info.get("transparency")))
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))


def refuse_oversized(image):
    """Raise ValueError where an image that is not decoded yet has more than `MOST_PIXELS`."""
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}")


def eight_bits(values, transparent=None):
    """Scale grey values of more than 8 bits to 0..255.

    Unsigned 16-bit values by the range of their type, so that brightness compares between pictures. Other types do not
    say which range is meant: a 32-bit TIFF mostly holds 8, 12 or 16 bits, floats 0..1 or physical units, and by the
    range of the type all of these are black. So where all values lie in 0..255, or floats in 0..1, this is the range,
    and otherwise that from the lowest to the highest value of the picture.

    Args:
        values: uint16, int32 or float32. Of floats, nan becomes 0, and infinity the end of the range.
        transparent: the value that becomes white.

    Raises:
        ValueError: no value is finite.
    """
    if values.dtype.kind == "u":
        scaled = values // 256
    else:
        finite = values[np.isfinite(values)].astype(float)
        if not finite.size:
            raise ValueError("no pixel is a finite number")
        low, high = finite.min(), finite.max()
        if low >= 0 and high <= 255:
            low, high = 0, 1 if values.dtype.kind == "f" and high <= 1 else 255
        scaled = np.nan_to_num((values - low) / max(high - low, np.finfo(float).tiny), nan=0, posinf=1, neginf=0) * 255
    eight = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return eight if transparent is None else np.where(values == transparent, np.uint8(255), eight)


def preprocessed(picture, settings):
    """Return the `pixel_values` of one picture, float32 (1, 3, height, width).

    Args:
        picture: uint8 array (height, width, 3).
        settings: `preprocessing` of the JSON file beside a deployed file: a `preprocessor_config.json`.
    """
    if settings.get("do_resize"):
        picture = resized(picture, *resized_shape(picture.shape, settings["size"]), settings.get("resample", 2))
    if settings.get("do_center_crop"):
        picture = cropped(picture, settings["crop_size"]["height"], settings["crop_size"]["width"])
    pixels, factor = picture.astype(np.float32), np.float32(1)
    if settings.get("do_normalize"):
        if settings.get("do_rescale"):
            factor = np.float32(1.0 / settings["rescale_factor"])
        mean, std = (np.float32(settings[key]) * factor for key in ("image_mean", "image_std"))
        pixels = (pixels - mean) / std
    elif settings.get("do_rescale"):
        pixels = pixels * np.float32(settings["rescale_factor"])
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def resized_shape(shape, size):
    """Return the height and width that a picture is resized to."""
    if "shortest_edge" not in size:
        return size["height"], size["width"]
    short, long = sorted(shape[:2])
    edge = size["shortest_edge"]
    other = int(edge * long / short)
    return (edge, other) if shape[0] <= shape[1] else (other, edge)


def resized(picture, height, width, resample):
    """Resize with antialiasing as PyTorch resizes uint8: weights and sums are whole numbers, width before height."""
    for axis, size in ((1, width), (0, height)):
        if picture.shape[axis] != size:
            weights, bits = _weights(picture.shape[axis], size, resample)
            sums = np.moveaxis(
                np.tensordot(weights, picture.astype(float), axes=(1, axis)), 0, axis
            )  # exact in float64
            picture = np.clip((sums.astype(np.int64) + (1 << (bits - 1))) >> bits, 0, 255).astype(np.uint8)
    return picture


def _weights(length, size, resample):
    """Return what each of `size` pixels takes of each of `length`, times two to the power of the second value."""
    reach, kernel = {2: (1, _triangle), 3: (2, _cubic)}[resample]  # the numbers of Pillow's BILINEAR and BICUBIC
    scale = length / size
    wide, weights = max(scale, 1.0), np.zeros((size, length))
    for place in range(size):
        centre = scale * (place + 0.5)
        first, last = max(int(centre - reach * wide + 0.5), 0), min(int(centre + reach * wide + 0.5), length)
        near = kernel(np.abs((np.arange(first, last) - centre + 0.5) / wide))
        weights[place, first:last] = near / near.sum()
    bits = next((bits for bits in range(22) if int(0.5 + weights.max() * (1 << (bits + 1))) >= 1 << 15), 22)
    return np.trunc(weights * (1 << bits) + np.where(weights < 0, -0.5, 0.5)), bits


def _triangle(x):
    return np.where(x < 1, 1 - x, 0)


def _cubic(x):
    return np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))


def cropped(picture, height, width):
    """Cut out the middle, with a black border where the picture is too small."""
    low, wide = max(height - picture.shape[0], 0), max(width - picture.shape[1], 0)
    picture = np.pad(picture, ((low // 2, low - low // 2), (wide // 2, wide - wide // 2), (0, 0)))
    top, left = (picture.shape[0] - height) // 2, (picture.shape[1] - width) // 2
    return picture[top : top + height, left : left + width]
