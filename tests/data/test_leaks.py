"""No picture is on two sides: of a division that is made here, or, unnoticed, of splits that were given."""

import io
from collections import Counter

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from reports import report

from hf_compress.data import load_data
from hf_compress.data.images import IGNORED_LABEL
from hf_compress.data.splits import Chosen, divide
from hf_compress.ground.errors import RunError
from hf_compress.report.limits import limits
from hf_compress.sections.data import DataSection

CLASSES = datasets.ClassLabel(names=["cat", "dog"])


def picture(number):
    """A PNG that no other number has."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), (number % 256, number // 256, 7), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def as_folder(folder, splits):
    for split, rows in splits.items():
        for index, (number, label) in enumerate(rows):
            place = folder / split / CLASSES.names[label]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{index}.png").write_bytes(picture(number))


def as_parquet(folder, splits):
    features = datasets.Features({"image": datasets.Image(), "label": CLASSES})
    folder.mkdir(exist_ok=True)
    for split, rows in splits.items():
        pictures = [{"bytes": picture(number), "path": f"{index}.png"} for index, (number, _) in enumerate(rows)]
        table = {"image": pictures, "label": [label for _, label in rows]}
        datasets.Dataset.from_dict(table, features=features).to_parquet(folder / f"{split}.parquet")


SOURCES = {"folder": as_folder, "parquet": as_parquet}


def load(folder, **options):
    return load_data(DataSection(path=str(folder), **options), seed=0)


def keys(part):
    return part.decoded.keys.tolist()


def numbered(*numbers):
    """Rows with a picture of each number, and its label."""
    return [(number, number % 2) for number in numbers]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(
    "options",
    [{}, {"splits": {"train": 0.5, "validation": 0.25, "test": 0.25}}, {"splits": {"test": 0.3}}, {"labelled": 0.5}],
    ids=str,
)
def test_duplicates_stay_on_one_side_of_a_division(tmp_path, source, options):
    SOURCES[source](tmp_path, {"train": numbered(*range(30), *range(20), *range(10), *range(4))})
    data = load(tmp_path, **options)
    parts = [*data.splits.values(), *([data.unlabelled] if data.unlabelled else [])]
    sides = [set(keys(part)) for part in parts]
    assert sum(map(len, parts)) == 64
    assert sum(map(len, sides)) == len(set.union(*sides)) == 30
    assert data.facts["leaks"] == data.facts["conflicting_labels"] == []
    for part in list(data.splits.values())[1:]:
        assert Counter(part.labels)[0] == pytest.approx(len(part) / 2, abs=2)


@st.composite
def images_with_copies(draw):
    """Which picture and which label each image has; -1 is none."""
    pictures = draw(st.lists(st.integers(0, draw(st.integers(1, 40))), min_size=3, max_size=60))
    labels = draw(st.lists(st.integers(-1, 4), min_size=len(pictures), max_size=len(pictures)))
    return np.array(pictures), np.array(labels)


@settings(max_examples=300, deadline=None)
@given(images_with_copies(), st.sampled_from([None, 0.1, 0.3, 2]), st.integers(0, 3), st.booleans())
def test_a_division_keeps_every_image_and_puts_no_picture_on_two_sides(images, size, seed, labelled):
    pictures, labels = images

    def divided():
        chosen = Chosen(
            {"train": np.arange(len(pictures))}, {"test": size, "validation": None}, {"train": "split train"}
        )
        chosen.origin |= {"test": "10% of split train", "validation": "10% of split train"}
        return divide(chosen, labels if labelled else None, pictures, seed)

    try:
        parts = divided()
    except RunError as error:
        assert "cannot be divided" in str(error)
        return
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(pictures)))
    sides = [set(pictures[part]) for part in parts.values()]
    assert sum(map(len, sides)) == len(set(pictures.tolist()))
    assert all(sides)
    if labelled:
        assert set(labels[parts["train"]]) == set(labels), "every class keeps an image to train on"
    assert {role: part.tolist() for role, part in parts.items()} == {r: p.tolist() for r, p in divided().items()}


GIVEN = {
    "train": numbered(*range(40), 3, 102, 103),
    "validation": numbered(50, 51, 52, 53, 4, 5, 102),
    "test": numbered(100, 101, 102, 103, 104, 3),
}
LEAKS = {("validation", "test"): (1, 1), ("train", "test"): (3, 4), ("train", "validation"): (3, 3)}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("on_leak", ["warn", "drop", "stop"])
def test_leaks_between_given_splits_are_told_or_dropped_or_stop(tmp_path, caplog, source, on_leak):
    SOURCES[source](tmp_path, GIVEN)
    if on_leak == "stop":
        with pytest.raises(RunError, match=r"1 of 6 images of 'test' are in 'validation', too.*'data.on_leak: drop'"):
            load(tmp_path, on_leak="stop")
        return
    data = load(tmp_path, on_leak=on_leak)
    found = {tuple(leak["splits"]): leak for leak in data.facts["leaks"]}
    example = found["train", "test"]["example"]
    assert example == "3.png" if source == "parquet" else example.startswith("train/")
    assert str(tmp_path) not in str(data.facts["leaks"]), "a report is published"
    sizes = {role: len(part) for role, part in data.splits.items()}
    sides = [set(keys(part)) for part in data.splits.values()]
    if on_leak == "warn":
        assert {pair: leak["images"] for pair, leak in found.items()} == {pair: n for pair, (n, _) in LEAKS.items()}
        assert sizes == {"train": 43, "validation": 7, "test": 6}
        assert "3 of 6 images of 'test' are in 'train', too" in caplog.text
    else:
        assert sizes == {"train": 37, "validation": 6, "test": 6}
        assert sum(leak["dropped"] for leak in found.values()) == 43 + 7 - 37 - 6
        assert sum(map(len, sides)) == len(set.union(*sides))


def test_unlabelled_images_may_not_be_test_images(tmp_path):
    as_folder(tmp_path / "photos", {"train": numbered(*range(30)), "test": numbered(100, 101)})
    as_folder(tmp_path / "more", {"train": numbered(100, 5, 200, 201)})
    data = load(tmp_path / "photos", unlabelled=[str(tmp_path / "more")], on_leak="drop")
    assert [leak["splits"] for leak in data.facts["leaks"] if leak["splits"][1] == "test"] == [["unlabelled", "test"]]
    assert not set(keys(data.unlabelled)) & set(keys(data.test))
    dropped = sum(leak["dropped"] for leak in data.facts["leaks"])
    assert len(data.unlabelled) == data.facts["splits"]["unlabelled"]["images"] == 4 - dropped


def test_slices_that_overlap_are_a_leak():
    data = load("digits", splits={"train": "train[:100]", "validation": "train[90:120]", "test": "train[200:230]"})
    assert [(leak["splits"], leak["images"]) for leak in data.facts["leaks"]] == [(["train", "validation"], 10)]


def test_a_split_without_anything_else_than_leaks_is_refused(tmp_path):
    as_parquet(tmp_path, {"train": numbered(*range(10)), "validation": numbered(20, 21), "test": numbered(20, 21, 22)})
    with pytest.raises(RunError, match="nothing is left of 'validation'"):
        load(tmp_path, on_leak="drop")


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_picture_with_different_labels_is_told(tmp_path, caplog, source):
    train, test = [*numbered(*range(30)), (4, 1), (4, 0)], [(100, 0), (101, 1), (6, 1)]
    SOURCES[source](tmp_path, {"train": train, "validation": numbered(200, 201), "test": test})
    conflicts = load(tmp_path).facts["conflicting_labels"]
    assert [(c["split"], c["images"], c["labels"]) for c in conflicts] == [
        ("train", 4, ["cat", "dog"]),
        ("test", 1, ["cat", "dog"]),
    ]
    assert "4 images of 'train' are stored with different labels" in caplog.text


def test_the_end_of_a_sorted_split_is_told_to_lack_classes(tmp_path, caplog):
    cats, dogs = [(n, 0) for n in range(30)], [(n, 1) for n in range(30, 60)]
    as_folder(tmp_path, {"train": cats + dogs, "test": [(100, 0), (101, 1)]})
    sliced = load(tmp_path, splits={"train": "train[:90%]", "validation": "train[90%:]"})
    told = "'validation' (split train[90%:]) has no image of 1 of 2 classes, such as cat, and tells nothing of them"
    told += ": without 'data.splits' every class gets its share"
    assert [record.message for record in caplog.records] == [told]
    assert sliced.facts["splits"]["validation"]["images_by_class"] == {"dog": 6}
    caplog.clear()
    assert load(tmp_path).facts["splits"]["validation"]["images_by_class"] == {"cat": 3, "dog": 3}
    assert not caplog.records
    data = report()["data"]
    data["splits"]["validation"] = data["splits"]["test"] | {"images_by_class": {"dog": 6, "owl": 3}}
    assert "Validation, which chose the best epoch, had no image of cat." in limits(report() | {"data": data})


def test_a_missing_label_is_no_other_label(tmp_path):
    as_parquet(tmp_path, {"train": [*numbered(*range(30)), (4, -1)], "test": numbered(100, 101)})
    data = load(tmp_path)
    assert data.facts["conflicting_labels"] == []
    assert data.unlabelled.labels == [IGNORED_LABEL]


@pytest.mark.parametrize("on_leak", ["warn", "drop", "stop"])
def test_a_stream_gives_no_held_out_picture(tmp_path, caplog, on_leak):
    as_parquet(tmp_path, {"train": GIVEN["train"], "validation": numbered(50, 51, 4), "test": GIVEN["test"]})
    options = {"streaming": True, "train_images": 43, "on_leak": on_leak}
    if on_leak == "stop":
        with pytest.raises(RunError, match=r"'data\.on_leak: drop'"):
            load(tmp_path, **options)
        return
    data = load(tmp_path, **options)
    data.stream.length = 38
    given = {item["view"][0, 0, 0].item() for item in data.stream}
    held_out = {3, 4, 102, 103}
    assert [leak["splits"] for leak in data.facts["leaks"]] == [["train", "test"], ["train", "validation"]]
    if on_leak == "drop":
        assert given == set(range(40)) - held_out
        assert not set(keys(data.train)) & (set(keys(data.test)) | set(keys(data.validation)))
    else:
        assert given & held_out
        assert "held-out images are in the stream of training images" in caplog.text


def test_the_card_names_what_is_not_used_what_leaks_and_what_contradicts_itself():
    facts = report()
    facts["data"] |= {
        "left_out": [{"reason": "no picture", "count": 3, "example": "notes.txt"}],
        "leaks": [
            {"splits": ["train", "test"], "images": 2, "dropped": 0, "example": "a.png"},
            {"splits": ["train", "validation"], "images": 1, "dropped": 4, "example": "b.png"},
        ],
        "conflicting_labels": [{"split": "train", "images": 2, "example": "c.png", "labels": ["cat", "dog"]}],
    }
    said = [sentence for sentence in limits(facts) if sentence not in limits(report())]
    assert said == [
        "Left out of the data: no picture (3, such as notes.txt).",
        "Test images that are in train, too: 2, such as a.png; this flatters the figures.",
        "Validation images that are in train, too: 1, such as b.png; 4 dropped from train.",
        "Images in train that are stored more than once with different labels: 2, such as c.png (cat, dog).",
    ]
