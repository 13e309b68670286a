"""Odd pictures, and the views that teacher and student get."""

import io

import datasets
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from hf_compress.data.augmentation import RandomShift, build_augmentation
from hf_compress.data.decoded import Decoded, Room
from hf_compress.data.images import Collator, ImageSplit, decode


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


def test_sixteen_bits_are_scaled_not_clipped():
    assert decode(stored(Image.new("I;16", (2, 2), 128 * 256)))[0, 0, 0] == 128


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


def test_standard_views_have_the_wanted_size():
    assert build_augmentation("standard", (24, 32))(torch.zeros(3, 50, 40, dtype=torch.uint8)).shape == (3, 24, 32)
