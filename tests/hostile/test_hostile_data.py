"""Data sets that are too small, unlabelled, mislabelled or no data sets."""

from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image
from refusals import ends

from hf_compress.data import load_data
from hf_compress.data.images import IGNORED_LABEL
from hf_compress.sections.data import DataSection

IMAGES = 24


def photos(folder: Path, **classes: int) -> None:
    """Write folders of pictures, one a class."""
    for shade, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("L", (8, 8), 20 * shade + number).save(folder / name / f"{number}.png")


def rows(folder: Path, labels: list | None, kind="int64", column="label", **columns) -> None:
    """Write a parquet file of pictures and labels."""
    count = IMAGES if labels is None else len(labels)
    pictures = [Image.new("L", (8, 8), 5 * (number % 50)) for number in range(count)]
    features = {"image": datasets.Image()} | {name: feature for name, (feature, _) in columns.items()}
    values = {"image": pictures} | {name: found for name, (_, found) in columns.items()}
    if labels is not None:
        features[column] = datasets.Value(kind) if isinstance(kind, str) else kind
        values[column] = labels
    data = datasets.Dataset.from_dict(values, features=datasets.Features(features))
    data.to_parquet(folder / "train.parquet")


def shuffled(*values) -> list:
    return [values[number % len(values)] for number in range(IMAGES)]


def names(*expected: str):
    def check(data):
        assert data.label_names == list(expected)
        assert sum(map(len, data.splits.values())) == IMAGES

    return check


def known(count: int, *expected: str):
    """Check the classes, and how many of all pictures have a label."""

    def check(data):
        assert data.label_names == list(expected)
        parts = [*data.splits.values(), *([data.unlabelled] if data.unlabelled else [])]
        assert sum(label != IGNORED_LABEL for part in parts for label in part.labels) == count

    return check


def loops(folder: Path) -> None:
    photos(folder, cat=12, dog=12)
    (folder / "cat" / "loop").symlink_to(folder / "cat" / "loop")
    (folder / "dog" / "up").symlink_to(folder)


def broken_links(folder: Path) -> None:
    photos(folder, cat=12, dog=12)
    (folder / "cat" / "gone.png").symlink_to("nowhere.png")


def nested(folder: Path) -> None:
    photos(folder, cat=12, dog=11)
    (folder / "dog" / "puppies").mkdir()
    Image.new("L", (8, 8), 99).save(folder / "dog" / "puppies" / "0.png")


def empty_class(folder: Path, *files: str) -> None:
    photos(folder, cat=12, dog=12)
    (folder / "owl").mkdir()
    for file in files:
        (folder / "owl" / file).touch()


CLASS = datasets.ClassLabel(names=["cat", "dog"])
CASES = {
    "one class": (lambda f: photos(f, cat=IMAGES), "one class folder only, 'cat'"),
    "one image": (lambda f: Image.new("L", (8, 8)).save(f / "0.png"), "cannot be divided"),
    "one image a class": (lambda f: photos(f, cat=1, dog=1), "cannot be divided"),
    "one image in one class": (lambda f: photos(f, cat=20, dog=1), known(21, "cat", "dog")),
    "links in circles": (loops, names("cat", "dog")),
    "a link to nothing": (broken_links, names("cat", "dog")),
    "a folder in a class": (nested, "different depths: 'dog/puppies'"),
    "an empty class": (empty_class, "owl' is empty"),
    "a class of hidden files": (lambda f: empty_class(f, ".gitkeep"), "owl' is empty"),
    "classes with odd names": (lambda f: photos(f, **{"a b": 12, "🦉\u202e": 12}), names("a b", "🦉\u202e")),
    "classes that differ in case": (lambda f: photos(f, Cat=12, cat=12), names("Cat", "cat")),
    "duplicated rows": (lambda f: rows(f, shuffled(0, 1) * 2), known(2 * IMAGES, "0", "1")),
    "labels of text": (lambda f: rows(f, shuffled("dog", "cat"), "string"), names("cat", "dog")),
    "labels of truth": (lambda f: rows(f, shuffled(True, False), "bool"), names("0", "1")),
    "labels of fractions": (lambda f: rows(f, shuffled(0.5, 1.5), "float32"), "holds"),
    "labels of lists": (lambda f: rows(f, shuffled([0], [1]), datasets.List(datasets.Value("int64"))), "holds"),
    "labels of pictures": (
        lambda f: rows(f, None, label=(datasets.Image(), [Image.new("L", (8, 8))] * IMAGES)),
        "image",
    ),
    "no label": (lambda f: rows(f, None), known(0)),
    "labels of nothing": (lambda f: rows(f, shuffled(None)), known(0)),
    "labels of nothing, as text": (lambda f: rows(f, shuffled(None), "string"), known(0)),
    "labels of -1": (lambda f: rows(f, shuffled(-1)), known(0)),
    "labels of -1 and classes": (lambda f: rows(f, shuffled(-1, 0, 1)), known(16, "0", "1")),
    "labels of nothing and classes": (lambda f: rows(f, shuffled(None, 0, 1)), known(16, "0", "1")),
    "labels of nothing and names": (lambda f: rows(f, shuffled(None, "a", "b"), "string"), known(16, "a", "b")),
    "named classes and nothing": (lambda f: rows(f, shuffled(None, 0, 1), CLASS), known(16, "cat", "dog")),
    "named classes and -1": (lambda f: rows(f, shuffled(-1, 0, 1), CLASS), known(16, "cat", "dog")),
    "named classes, one without images": (lambda f: rows(f, shuffled(0), CLASS), "class 'dog' has no training images"),
    "classes from 1": (lambda f: rows(f, shuffled(1, 2)), "class '0' has no training images"),
    "a label far out": (lambda f: rows(f, shuffled(0, 10**15)), "label 1000000000000000"),
    "more classes than images": (lambda f: rows(f, list(range(IMAGES))), "cannot be divided"),
    "no image column": (
        lambda f: datasets.Dataset.from_dict({"label": [0, 1]}).to_parquet(f / "train.parquet"),
        "no image column",
    ),
    "two image columns": (
        lambda f: rows(f, shuffled(0, 1), other=(datasets.Image(), [Image.new("L", (8, 8))] * IMAGES)),
        "several image columns (image, other)",
    ),
    "two label columns": (
        lambda f: rows(f, shuffled(0, 1), CLASS, fine=(CLASS, shuffled(1, 0))),
        "label columns",
    ),
    "no rows": (lambda f: rows(f, []), "'data.path'"),
    "a parquet file that is none": (lambda f: (f / "train.parquet").write_bytes(b"PAR1 no PAR1"), "'data.path'"),
    "a truncated parquet file": (
        lambda f: (
            rows(f, shuffled(0, 1)),
            (f / "train.parquet").write_bytes((f / "train.parquet").read_bytes()[:-9]),
        ),
        "'data.path'",
    ),
    "files of no kind": (lambda f: (f / "thesis.tex").write_text("years of work"), "'data.path'"),
    "an empty folder": (lambda f: None, "has no images"),
}
SECTIONS = {
    "no folder": ({"path": "./nowhere"}, "no folder './nowhere'"),
    "a file": ({"path": __file__}, "there is no folder"),
    "a folder behind a file": ({"path": f"{__file__}/photos"}, "there is no folder"),
    "a name of 5,000 characters": ({"path": "./" + "n" * 5000}, "there is no folder"),
    "NUL": ({"path": "./a\0b"}, "there is no folder"),
    "a user who is not there": ({"path": "~nobody-of-that-name/photos"}, "there is no folder"),
    "a link": ({"path": "https://example.com/photos.zip"}, "data.path"),
    "nothing": ({"path": ""}, "data.path"),
    "a split of no images": ({"path": "digits", "splits": {"test": "train[:0]"}}, "has no images"),
    "a split beyond the end": ({"path": "digits", "splits": {"test": "train[5000:]"}}, "test"),
    "a split backwards": ({"path": "digits", "splits": {"test": "train[9:5]"}}, "test"),
    "a split that is none": ({"path": "digits", "splits": {"test": "train[a:b]"}}, "'data.splits.test' cannot be"),
    "a split left open": ({"path": "digits", "splits": {"test": "train["}}, "'data.splits.test' cannot be"),
    "no label column": ({"path": "digits", "label_column": "../x"}, "no column '../x'"),
    "a label column of pictures": ({"path": "digits", "label_column": "image"}, "image"),
    "an image column of labels": ({"path": "digits", "image_column": "label"}, "'data.image_column'"),
    "no such image column": ({"path": "digits", "image_column": "photo"}, "'data.image_column'"),
    "a tiny part of the labels": ({"path": "digits", "labelled": 1e-9}, "cannot be divided"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_data_set_is_right_or_refused(case, fenced):
    make, outcome = CASES[case]
    (fenced / "data").mkdir()
    make(fenced / "data")
    says = outcome if isinstance(outcome, str) else None
    data = ends(lambda: load_data(DataSection(path="./data"), seed=0), says)
    if callable(outcome):
        outcome(data)
    if data is not None:
        assert all(len(part) for part in data.splits.values())
        assert data.train[0]["view"].dtype == np.uint8 or data.train[0]["view"].shape[0] == 3


@pytest.mark.parametrize("case", SECTIONS)
def test_a_section_names_data_or_is_refused(case, fenced):
    options, says = SECTIONS[case]
    ends(lambda: load_data(DataSection(**options), seed=0), says)
