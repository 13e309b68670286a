"""Pictures that stay in memory, and views that repeat: both change nothing in what a model sees."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import ViTImageProcessor

from hf_compress.data import Collator, images, load_data
from hf_compress.data.decoded import Decoded, Room
from hf_compress.data.images import decode
from hf_compress.ground.errors import UsageError
from hf_compress.run.recipe import Recipe
from hf_compress.sections.data import DataSection

PROCESSOR = ViTImageProcessor(size={"height": 16, "width": 16})
SIZES = [(9, 7), (16, 16), (5, 12), (20, 31), (8, 8), (30, 10)]


def stored(number):
    pixels = np.random.default_rng(number).integers(0, 256, (*SIZES[number], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def kept(numbers, room):
    return Decoded.of([(bytes([number]) * 32, decode(stored(number))) for number in numbers], room)


@pytest.fixture
def photos(tmp_path):
    """Two classes of pictures of all sizes, as PNG and as JPEG."""
    for number in range(24):
        pixels = np.random.default_rng(number).integers(0, 256, (*SIZES[number % 6], 3), dtype=np.uint8)
        folder = tmp_path / "photos" / ("cat" if number % 2 else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{number}.{'png' if number % 3 else 'jpg'}")
    return str(tmp_path / "photos")


def load(photos, **options):
    splits = {"train": 0.5, "validation": 0.25, "test": 0.25}
    return load_data(DataSection(path=photos, splits=splits, **options), 0)


def test_kept_pictures_have_the_values_and_the_strides_of_decoded_ones():
    both = Decoded.joined([kept([0, 1, 2], Room(10**6)), kept([3, 4, 5], Room(10**6))])
    assert len(both.blocks) == 2
    for number in range(6):
        fresh = decode(stored(number))
        assert torch.equal(both[number], fresh)
        assert both[number].stride() == fresh.stride()
    chosen = both.subset(np.array([5, 2]))
    assert torch.equal(chosen[0], decode(stored(5)))
    assert torch.equal(chosen[1], decode(stored(2)))


def test_as_many_pictures_are_kept_as_there_is_room_for():
    sizes = [3 * height * width for height, width in SIZES]
    room = Room(sizes[0] + sizes[1] + sizes[2] + sizes[4] + 10)
    first, second = kept([0, 1, 2], room), kept([3, 4], room)
    both = Decoded.joined([first, second])
    assert [both[number] is not None for number in range(5)] == [True, True, True, False, True]
    assert sum(block.nbytes for block in both.blocks) == sizes[0] + sizes[1] + sizes[2] + sizes[4]


def test_a_fingerprint_tells_other_pictures_and_another_order_apart():
    parts = [kept(numbers, Room(0)) for numbers in ([0, 1], [1, 0], [0, 2], [0], [0, 1, 2])]
    assert len({part.fingerprint for part in parts}) == len(parts)
    assert kept([0, 1], Room(10**6)).fingerprint == parts[0].fingerprint


def test_what_models_see_does_not_depend_on_memory_or_workers(photos):
    seen = []
    for memory, workers in ((0, 0), (1, 0), (1, 2)):
        data = load(photos, cache_mb=memory, augmentation="light")
        data = data.augmented("light", PROCESSOR)
        assert any(data.train.decoded[index] is None for index in range(12)) == (memory == 0)
        torch.manual_seed(0)
        items = DataLoader(data.train.without_augmentation(), 5, collate_fn=Collator(PROCESSOR), num_workers=workers)
        batches = [batch["pixel_values"] for batch in items]
        torch.manual_seed(1)
        augmented = [Collator(PROCESSOR)(data.train.__getitems__([3, 1, 7]))["pixel_values"]]
        seen.append(torch.cat(batches + augmented))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_pictures_in_memory_are_decoded_once_and_others_each_time(photos, monkeypatch):
    calls = []
    monkeypatch.setattr(images, "decode", lambda picture: calls.append(1) or decode(picture))
    for memory, expected in ((1, 0), (0, 24)):
        train = load(photos, cache_mb=memory).train
        calls.clear()
        for _ in range(2):
            train.__getitems__(list(range(12)))
        assert len(calls) == expected


def test_an_image_shows_its_views_in_turn_whatever_was_drawn_before(photos):
    data = load(photos, augmentation="light", views=3)
    data = data.augmented("light", PROCESSOR)
    train = data.train

    def shown(epoch):
        return [item["view"].numpy().tobytes() for item in train.in_epoch(epoch).__getitems__(list(range(12)))]

    first = [shown(epoch) for epoch in range(3)]
    assert len({tuple(views) for views in first}) == 3
    state = torch.random.get_rng_state()
    torch.rand(5)
    drawn = torch.random.get_rng_state()
    assert [shown(epoch) for epoch in range(3, 6)] == first
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert not torch.equal(state, drawn)
    alone = train.in_epoch(4)[7]["view"].numpy().tobytes()
    assert alone == first[1][7]
    train.seed = 1
    assert shown(0) != first[0]
    assert len({train.in_epoch(epoch).fingerprint for epoch in range(6)}) == 3


def test_views_without_augmentation_are_an_error():
    recipe = {"teacher": "x", "student": "resnet18", "data": {"path": "digits", "views": 4}, "steps": ["distill"]}
    with pytest.raises(UsageError, match=r"'data' cannot be .*views are made by an augmentation"):
        Recipe.from_dict(recipe)


def test_changed_pictures_have_another_fingerprint(photos):
    before, again = (load(photos).train for _ in range(2))
    assert before.fingerprint == again.fingerprint
    for file in Path(photos).rglob("*"):
        if file.is_file():
            Image.open(file).rotate(180).save(file)
    assert load(photos).train.fingerprint != before.fingerprint
