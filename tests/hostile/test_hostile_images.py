"""Pictures that are damaged, huge, tiny or unusual: decoded as Pillow converts them, or counted as corrupt."""

import io
import logging
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from refusals import refusal

from hf_compress.data import load_data
from hf_compress.data.augmentation import build_augmentation
from hf_compress.data.images import decode, preprocess
from hf_compress.models.students import build_registered
from hf_compress.sections.data import DataSection

RANDOM = np.random.default_rng(0)


def picture(mode="RGB", size=(24, 16)):
    """Noise in any mode of Pillow."""
    width, height = size
    rgba = Image.fromarray(RANDOM.integers(0, 256, (height, width, 4), np.uint8), "RGBA")
    if mode == "I;16":
        return Image.fromarray(RANDOM.integers(0, 65536, (height, width), np.uint16))
    if mode == "F":
        return Image.fromarray(RANDOM.uniform(0, 255, (height, width)).astype(np.float32))
    return rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)


def stored(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width, height, data=b""):
    """A PNG that declares a size and holds other data."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def transparent_palette():
    image = picture("P")
    image.info["transparency"] = 0
    return stored(image, "PNG", transparency=0)


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return stored(picture(), "JPEG", exif=exif.tobytes())


FRAMES = {"save_all": True, "append_images": [picture(), picture()]}
GOOD = {
    "rgb.png": stored(picture(), "PNG"),
    "one-pixel.png": stored(picture(size=(1, 1)), "PNG"),
    "one-pixel-high.png": stored(picture(size=(50_000, 1)), "PNG"),
    "one-pixel-wide.png": stored(picture(size=(1, 50_000)), "PNG"),
    "bilevel.png": stored(picture("1"), "PNG"),
    "grey.png": stored(picture("L"), "PNG"),
    "grey-alpha.png": stored(picture("LA"), "PNG"),
    "palette.png": stored(picture("P"), "PNG"),
    "palette-transparent.png": transparent_palette(),
    "rgba.png": stored(picture("RGBA"), "PNG"),
    "sixteen-bit.png": stored(picture("I;16"), "PNG"),
    "animated.png": stored(picture(), "PNG", **FRAMES),
    "cmyk.jpg": stored(picture("CMYK"), "JPEG"),
    "grey.jpg": stored(picture("L"), "JPEG"),
    "progressive.jpg": stored(picture(), "JPEG", progressive=True),
    "rotated.jpg": rotated(),
    "bad-exif.jpg": stored(picture(), "JPEG", exif=b"Exif\0\0" + b"\xff" * 40),
    "animated.gif": stored(picture(), "GIF", **FRAMES),
    "animated.webp": stored(picture(), "WEBP", lossless=True, **FRAMES),
    "float.tiff": stored(picture("F"), "TIFF"),
    "lab.tiff": stored(picture("LAB"), "TIFF"),
    "bitmap.bmp": stored(picture(), "BMP"),
    "a-png-named.jpg": stored(picture(), "PNG"),
    "a-gif-named.png": stored(picture(), "GIF"),
    ".hidden.png": stored(picture(), "PNG"),
    "with space.png": stored(picture(), "PNG"),
    "line\nbreak.png": stored(picture(), "PNG"),
    "owl 🦉 \u202e.png": stored(picture(), "PNG"),
    "brackets[0-9]*.png": stored(picture(), "PNG"),
}
BAD = {
    "empty.png": b"",
    "text.jpg": b"these are no pixels",
    "truncated.jpg": stored(picture(size=(64, 64)), "JPEG")[:-200],
    "header-alone.jpg": stored(picture(), "JPEG")[:20],
    "truncated.png": stored(picture(size=(64, 64)), "PNG")[:-200],
    "truncated.gif": stored(picture(size=(64, 64)), "GIF")[:900],
    "truncated.webp": stored(picture(size=(64, 64)), "WEBP")[:-60],
    "truncated.tiff": stored(picture(), "TIFF")[:-100],
    "wrong-checksum.png": stored(picture(), "PNG").replace(b"IDAT", b"IDAT\1", 1),
    "zero-wide.png": png(0, 5),
    "bomb.png": png(50_000, 50_000, bytes(1000)),
    "smaller-bomb.png": png(10_000, 10_000, bytes(1000)),
    "web-page.png": b"<!doctype html><title>404</title>",
    "null.bmp": b"BM" + bytes(100),
}
CASES = [*GOOD, *BAD]


def expected(content: bytes) -> np.ndarray:
    """What Pillow makes of a picture: its first frame, upright, on white, RGB."""
    image = Image.open(io.BytesIO(content))
    if image.getexif().get(0x0112) == 6:
        image = image.transpose(Image.Transpose.ROTATE_270)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA")).astype(float)
        alpha = rgba[..., 3:] / 255
        return (rgba[..., :3] * alpha + 255 * (1 - alpha)).round()
    return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def processor():
    return build_registered("resnet18", ["a", "b"], width=0.125, image_size=32).processor


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Everything in one class, good pictures in another."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("fine", "hostile"):
        (folder / name).mkdir()
    for number in range(20):
        picture().save(folder / "fine" / f"{number}.png")
    for name, content in (GOOD | BAD).items():
        (folder / "hostile" / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    """The names of the pictures that are left, and the warnings."""
    records = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())
    logger = logging.getLogger("hf_compress.data.sources")
    logger.addHandler(handler)
    data = load_data(DataSection(path=str(folder), splits={"train": 0.4, "validation": 0.3, "test": 0.3}), seed=0)
    logger.removeHandler(handler)
    names = {row["path"].rpartition("/")[2] for split in data.splits.values() for row in split.pictures["image"]}
    return names, data.facts["splits"], records


@pytest.mark.parametrize("name", GOOD)
def test_a_good_picture_has_pillows_pixels_and_goes_through_everything(name, processor, loaded):
    view = decode({"bytes": GOOD[name], "path": name})
    assert np.abs(view.permute(1, 2, 0).numpy() - expected(GOOD[name])).max() <= 1
    for augmentation in ("light", "standard"):
        torch.manual_seed(0)
        assert build_augmentation(augmentation, (32, 32))(view).dtype == torch.uint8
    assert preprocess(processor, [view]).shape == (1, 3, 32, 32)
    assert (name in loaded[0]) != name.startswith("."), "hidden files are left out"


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_picture_is_left_out_and_named_where_the_recipe_says_stop(name, tmp_path, loaded):
    assert name not in loaded[0]
    (tmp_path / "photos").mkdir()
    for number in range(12):
        (tmp_path / "photos" / f"{number}.png").write_bytes(GOOD["rgb.png"])
    (tmp_path / "photos" / name).write_bytes(BAD[name])
    section = DataSection(path=str(tmp_path / "photos"), on_corrupt="stop")
    assert name in refusal(lambda: load_data(section, seed=0))


def test_what_is_left_out_is_counted_and_warned_of(loaded):
    _, facts, records = loaded
    assert sum(split["corrupt_images_skipped"] for split in facts.values()) == len(BAD)
    assert sum(int(record.split("skipped ")[1].split()[0]) for record in records) == len(BAD)
