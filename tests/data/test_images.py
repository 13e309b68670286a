"""Odd pictures, and the views that teacher and student get."""

import io
import struct
import sys
import zlib
from itertools import pairwise

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from hf_compress.data import load_data
from hf_compress.data.augmentation import RandomShift, build_augmentation
from hf_compress.data.decoded import Decoded, Room
from hf_compress.data.images import Collator, ImageSplit, decode, evenly_spread, spread
from hf_compress.data.mixing import Mixing
from hf_compress.sections.data import DataSection


def stored(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return {"bytes": buffer.getvalue(), "path": None}


def test_grayscale_becomes_three_equal_channels():
    assert torch.equal(decode(stored(Image.new("L", (4, 6), 77))), torch.full((3, 6, 4), 77, dtype=torch.uint8))


def test_transparency_lies_on_white():
    assert decode(stored(Image.new("RGBA", (2, 2), (255, 0, 0, 0)))).min() == 255
    assert decode(stored(Image.new("RGBA", (2, 2), (255, 0, 0, 255))))[:, 0, 0].tolist() == [255, 0, 0]


def test_palette_with_transparent_colour():
    image = Image.new("P", (2, 2), 1)
    image.putpalette([0, 0, 0, 0, 0, 255])
    assert decode(stored(image))[:, 0, 0].tolist() == [0, 0, 255]
    assert decode(stored(image, transparency=1))[:, 0, 0].tolist() == [255, 255, 255]


def grey(*values, dtype):
    return Image.fromarray(np.array([values], dtype))


def raw(mode, *values):
    """A picture in a mode that arrays do not make, from its bytes."""
    order = ">u2" if mode in ("I;16B", "I;16N") and (mode == "I;16B" or sys.byteorder == "big") else "<u2"
    return Image.frombytes(mode, (len(values), 1), np.array(values, order).tobytes())


def sixteen_bit_png(colour, *values, transparent=None):
    """A PNG of one row of 16-bit samples, which Pillow does not write; `colour` is the type of its header."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", len(values) // samples, 1, 16, colour, 0, 0, 0)
    key = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    row = chunk(b"IDAT", zlib.compress(b"\0" + np.array(values, ">u2").tobytes()))
    return {"bytes": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + key + row + chunk(b"IEND", b""), "path": None}


def frames(kind):
    """Two frames, of which the first is black."""
    return stored(Image.new("RGB", (2, 1)), kind, save_all=True, append_images=[Image.new("RGB", (2, 1), "white")])


def coloured(mode, kind="TIFF"):
    return stored(Image.new("RGB", (1, 1), (200, 100, 50)).convert(mode), kind)


INF, NAN = float("inf"), float("nan")
RUST = [(200, 100, 50)]
SIXTEEN, EIGHT = (0, 255, 256, 32768, 65535), (0, 0, 1, 128, 255)
CASES = {  # a stored picture -> the pixels of its first row, grey or RGB
    "16-bit PNG": (stored(grey(*SIXTEEN, dtype=np.uint16)), EIGHT),
    "16-bit PNG with a transparent value": (sixteen_bit_png(0, *SIXTEEN, transparent=256), (0, 0, 255, 128, 255)),
    "16-bit RGB PNG": (sixteen_bit_png(2, 0x8000, 0x4000, 0x12FF), [(128, 64, 18)]),
    "16-bit grey PNG with alpha": (sixteen_bit_png(4, 0x8000, 65535, 0x4000, 0), (128, 255)),
    "16-bit RGBA PNG": (sixteen_bit_png(6, 0x8000, 0x4000, 0x12FF, 65535), [(128, 64, 18)]),
    "16-bit TIFF": (stored(grey(*SIXTEEN, dtype=np.uint16), "TIFF"), EIGHT),
    "16-bit TIFF, little endian": (stored(raw("I;16L", *SIXTEEN), "TIFF"), EIGHT),
    "16-bit TIFF, big endian": (stored(raw("I;16B", *SIXTEEN), "TIFF"), EIGHT),
    "16-bit PGM": ({"bytes": b"P5 3 1 65535\n" + bytes([0, 0, 128, 0, 255, 255]), "path": None}, (0, 128, 255)),
    "32-bit TIFF of 8-bit values": (stored(grey(0, 7, 200, dtype=np.int32), "TIFF"), (0, 7, 200)),
    "32-bit TIFF of 12-bit values": (stored(grey(0, 2048, 4095, dtype=np.int32), "TIFF"), (0, 128, 255)),
    "32-bit TIFF of 16-bit values": (stored(grey(0, 32768, 65535, dtype=np.int32), "TIFF"), (0, 128, 255)),
    "32-bit TIFF, the whole range": (stored(grey(-(2**31), 0, 2**31 - 1, dtype=np.int32), "TIFF"), (0, 128, 255)),
    "32-bit TIFF, negative values": (stored(grey(-300, -200, -100, dtype=np.int32), "TIFF"), (0, 128, 255)),
    "32-bit TIFF of one high value": (stored(grey(5000, 5000, dtype=np.int32), "TIFF"), (0, 0)),
    "32-bit TIFF of one low value": (stored(grey(77, 77, dtype=np.int32), "TIFF"), (77, 77)),
    "float TIFF in 0..1": (stored(grey(0, 0.25, 0.5, dtype=np.float32), "TIFF"), (0, 64, 128)),
    "float TIFF in 0..255": (stored(grey(0, 7, 200, dtype=np.float32), "TIFF"), (0, 7, 200)),
    "float TIFF in 0..2": (stored(grey(0, 1, 2, dtype=np.float32), "TIFF"), (0, 1, 2)),
    "float TIFF of any unit": (stored(grey(-40, 0, 1000, 1040, dtype=np.float32), "TIFF"), (0, 9, 246, 255)),
    "float TIFF of zeros": (stored(grey(0, 0, dtype=np.float32), "TIFF"), (0, 0)),
    "float TIFF of one value": (stored(grey(-9, -9, dtype=np.float32), "TIFF"), (0, 0)),
    "float TIFF with holes": (stored(grey(NAN, 0, 1, INF, -INF, dtype=np.float32), "TIFF"), (0, 0, 255, 255, 0)),
    "two levels": (stored(Image.fromarray(np.array([[False, True]]))), (0, 255)),
    "grey": (stored(grey(0, 9, 255, dtype=np.uint8)), (0, 9, 255)),
    "grey with alpha": (stored(Image.new("LA", (1, 1), (100, 0))), (255,)),
    "palette with alpha": (stored(Image.new("RGBA", (1, 1), (0, 0, 0, 0)).convert("PA"), "TIFF"), (255,)),
    "CMYK": (coloured("CMYK"), RUST),
    "CMYK JPEG": (stored(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), [(254, 0, 0)] * 8),
    "YCbCr": (stored(Image.new("RGB", (1, 1), RUST[0]).convert("YCbCr"), "TIFF", compression="jpeg"), RUST),
    "LAB": (coloured("LAB"), RUST),
    "two frames of TIFF": (frames("TIFF"), (0, 0)),
    "two frames of GIF": (frames("GIF"), (0, 0)),
    "two frames of PNG": (frames("PNG"), (0, 0)),
    "two frames of WebP": (frames("WEBP"), (0, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_picture_of_any_mode_has_the_pixels_that_it_shows(case):
    picture, expected = CASES[case]
    expected = torch.tensor([value if isinstance(value, tuple) else (value,) * 3 for value in expected]).T
    tolerance = 2 if case in ("YCbCr", "LAB", "CMYK JPEG") else 0
    assert (decode(picture)[:, 0].int() - expected).abs().max() <= tolerance


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I", "F"])
def test_deep_pictures_are_turned_as_their_tag_says(mode):
    values = np.array([[0, 65535]], ">u2" if mode == "I;16B" else "<u2")
    image = (
        Image.fromarray(values.astype({"I": np.int32, "F": np.float32}[mode]))
        if mode in "IF"
        else raw(mode, *values[0])
    )
    turned = decode(stored(image, "TIFF", tiffinfo={0x0112: 6}))
    assert turned[0].tolist() == [[0], [255]]


def test_floats_that_are_all_holes_are_no_picture():
    with pytest.raises(ValueError, match="no pixel is a finite number"):
        decode(stored(grey(NAN, INF, dtype=np.float32), "TIFF"))


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (8, 4), "black")
    image.paste("white", (0, 0, 4, 4))
    turned = decode(stored(image, "PNG", exif=exif))
    assert turned.shape == (3, 8, 4)
    assert turned[0, 0].min() == 255
    assert turned[0, -1].max() == 0


def test_a_truncated_picture_is_an_error():
    picture = stored(Image.effect_noise((64, 64), 50))
    picture["bytes"] = picture["bytes"][:200]
    with pytest.raises((OSError, SyntaxError)):
        decode(picture)


def test_teacher_and_student_get_their_own_normalisation_of_the_same_augmented_view():
    size = {"height": 16, "width": 16}
    student = ViTImageProcessor(size=size, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    teacher = ViTImageProcessor(size=size, image_mean=[0.5, 0.5, 0.5], image_std=[0.25, 0.25, 0.25])
    augment = build_augmentation("light", (16, 16))
    picture = torch.randint(0, 256, (3, 16, 16), dtype=torch.uint8)
    torch.manual_seed(0)
    items = [{"view": augment(picture), "label": n} for n in range(8)]
    batch = Collator(student, teacher)(items)
    assert not torch.allclose(batch["pixel_values"], batch["teacher_pixel_values"])

    def undo(pixels, processor):
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (processor.image_mean, processor.image_std))
        return pixels * std + mean

    views = torch.stack([item["view"] for item in items]) / 255
    assert torch.allclose(undo(batch["pixel_values"], student), views, atol=1e-5)
    assert torch.allclose(undo(batch["teacher_pixel_values"], teacher), views, atol=1e-5)
    assert len({item["view"].numpy().tobytes() for item in items}) > 1
    assert batch["labels"].tolist() == list(range(8))


def test_teacher_and_student_get_their_own_size():
    student = ViTImageProcessor(size={"height": 8, "width": 8})
    teacher = ViTImageProcessor(size={"height": 24, "width": 24})
    batch = Collator(student, teacher)([{"view": torch.zeros(3, 16, 20, dtype=torch.uint8), "label": 0}] * 2)
    assert batch["pixel_values"].shape == (2, 3, 8, 8)
    assert batch["teacher_pixel_values"].shape == (2, 3, 24, 24)


def test_a_shift_moves_the_picture_and_mirrors_the_edge():
    picture = torch.arange(16, dtype=torch.uint8).expand(3, 16, 16)
    seen = set()
    for seed in range(40):
        torch.manual_seed(seed)
        row = RandomShift()(picture)[0, 0].tolist()
        shift = row[8] - 8
        assert row == [min(abs(x + shift), 30 - abs(x + shift)) for x in range(16)]
        seen.add(shift)
    assert seen == {-2, -1, 0, 1, 2}


def test_light_views_are_mirrored_half_of_the_time():
    picture = torch.arange(16, dtype=torch.uint8).expand(3, 16, 16)
    torch.manual_seed(0)
    rows = [build_augmentation("light", (16, 16))(picture)[0, 0] for _ in range(100)]
    mirrored = sum(bool(row[4] > row[12]) for row in rows)
    assert 30 < mirrored < 70


def test_views_differ_from_picture_to_picture_and_from_epoch_to_epoch_until_they_repeat():
    picture = stored(Image.effect_noise((32, 32), 50))
    pictures = datasets.Dataset.from_list([{"image": picture}] * 8).cast_column("image", datasets.Image(decode=False))
    images = ImageSplit(pictures, "image", [0] * 8, Decoded.of([(bytes(32), decode(picture))] * 8, Room(0)))
    images.augment, images.views = build_augmentation("standard", (16, 16)), 2
    epochs = [
        [item["view"].numpy().tobytes() for item in images.in_epoch(epoch).__getitems__(range(8))]
        for epoch in range(3)
    ]
    assert len({*epochs[0], *epochs[1]}) == 16
    assert epochs[2] == epochs[0]
    shown = {item["view"].numpy().tobytes() for item in images.without_augmentation().__getitems__(range(8))}
    assert shown == {decode(picture).numpy().tobytes()}


@pytest.mark.parametrize("views", [None, 3])
@pytest.mark.parametrize("mixing", [None, Mixing(mixup=1.0)])
def test_a_longer_epoch_goes_through_the_pictures_again_in_the_views_of_later_epochs(views, mixing):
    train = load_data(DataSection(path="digits", augmentation="light", views=views), seed=3).train.subset(range(4))
    train = train.augmented(lambda picture: torch.roll(picture, int(torch.randint(64, ()))), mixing)

    def shown(images, index):
        torch.manual_seed(0)
        item = images[index]
        return item["label"], item["view"].flatten().tolist()

    long = train.in_epochs_of(6)
    assert len(long) == 6 and len(train) == 4
    in_long = [shown(long.in_epoch(epoch), index) for epoch in range(2) for index in range(6)]
    in_short = [shown(train.in_epoch(epoch), index) for epoch in range(3) for index in range(4)]
    assert in_long == in_short
    assert len({tuple(view) for _, view in in_long}) > 4 or views is mixing is None


def test_standard_views_have_the_wanted_size():
    assert build_augmentation("standard", (24, 32))(torch.zeros(3, 50, 40, dtype=torch.uint8)).shape == (3, 24, 32)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 256, 2048])
def test_images_are_taken_evenly_from_a_whole_split(count):
    for total in [*range(1, 40), 255, 256, 257, 500, 511, 512, 2047, 50_000]:
        chosen = evenly_spread(total, count)
        gaps = [after - before for before, after in pairwise([-1, *chosen, total])]
        inner = gaps[1:-1] or [total]
        assert len(chosen) == min(total, count)
        assert min(gaps) > 0 and max(inner) - min(inner) <= 1
        assert max(gaps[0], gaps[-1]) <= max(inner)
        assert abs(gaps[0] - gaps[-1]) <= 1


def test_half_of_a_sorted_split_has_every_class_alike():
    labels = [label for label in range(10) for _ in range(50)]
    counts = [sum(labels[index] == label for index in evenly_spread(500, 256)) for label in range(10)]
    assert all(count in (25, 26) for count in counts)


@pytest.mark.parametrize("total", [40, 200, 4000])
def test_of_images_that_are_sorted_by_class_every_batch_and_the_first_few_show_all_classes(total):
    labels = [10 * number // total for number in range(total)]
    split = ImageSplit(datasets.Dataset.from_dict({"image": [None] * total}), "image", labels, None)
    chosen = spread(split, 256).indices
    assert sorted(chosen) == evenly_spread(total, 256)
    shown = [labels[index] for index in chosen]
    assert len(set(shown[:20])) == 10
    for first in range(0, len(shown) - 32, 32):
        assert len(set(shown[first : first + 32])) == 10
    assert len(set(shown[: len(shown) // 8])) == min(10, len(shown) // 8)
