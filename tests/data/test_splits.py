"""Divisions: the same as ever where no picture is stored twice, and as near as they can be where classes are small."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from hf_compress.data import load_data
from hf_compress.data.splits import choose, choose_to_evaluate, divide, stratified
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.sections.data import DataSection, SplitsSection


@pytest.mark.parametrize("seed", [0, 7])
def test_data_without_duplicates_is_divided_as_scikit_learn_does(seed):
    """Runs of earlier versions must find their test images again."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = np.uint8(pixels * 255 / 16)
    rest, test = train_test_split(np.arange(1797), test_size=0.1, stratify=labels, random_state=seed)
    rest = np.sort(rest)
    train, validation = train_test_split(rest, test_size=0.1, stratify=labels[rest], random_state=seed)
    data = load_data(DataSection(path="digits"), seed)
    for part, expected in zip(data.splits.values(), (train, validation, test), strict=True):
        shown = np.stack([part[index]["view"][0].numpy().ravel() for index in range(len(part))])
        assert np.array_equal(shown, pixels[np.sort(expected)])
        assert part.labels == labels[np.sort(expected)].tolist()


def alone(labels):
    """A group for each image."""
    return np.arange(len(labels))


SIZES = {
    "20 classes of 5, a tenth": ([5] * 20, None, [1] * 20),
    "20 classes of 5, ten images": ([5] * 20, 10, 10),
    "20 classes of 5, all but one a class": ([5] * 20, 80, [4] * 20),
    "100, and 19 classes of 2": ([100] + [2] * 19, None, [10] + [1] * 19),
    "a class with one image": ([30, 1], None, [3, 0]),
    "a class with one image, a fraction": ([30, 10, 1], 0.25, 11),
    "every class has one image but one": ([4, 1, 1], None, [1, 0, 0]),
    "two images": ([2], None, [1]),
    "one class": ([40], 0.25, [10]),
    "two classes of two": ([2, 2], None, [1, 1]),
}


@pytest.mark.parametrize("case", SIZES)
def test_small_classes_are_held_out_as_evenly_as_they_can_be(case):
    sizes, held_out, expected = SIZES[case]
    labels = np.repeat(np.arange(len(sizes)), sizes)
    rest, out = stratified(len(labels), labels, held_out, 0, alone(labels))
    counts = np.bincount(labels[out], minlength=len(sizes))
    if isinstance(expected, list):
        assert counts.tolist() == expected
    else:
        assert len(out) == expected
        exact = expected * np.array(sizes) / len(labels)
        assert np.abs(counts - exact).max() < 1
    assert sorted([*rest, *out]) == list(range(len(labels)))
    assert set(labels[rest]) == set(labels)
    assert np.array_equal(out, stratified(len(labels), labels, held_out, 0, alone(labels))[1])


@pytest.mark.parametrize(
    ("sizes", "held_out", "says"),
    [
        ([1], None, "1 of 1 images cannot be held out where each class keeps one"),
        ([1, 1, 1], None, "1 of 3 images, of 3 classes, cannot be held out"),
        ([5] * 20, 81, "81 of 100 images, of 20 classes, cannot be held out"),
        ([20, 20], 0, "0 of 40 images"),
    ],
)
def test_too_few_images_are_refused_in_one_sentence(sizes, held_out, says):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    with pytest.raises(RunError, match=f"{says}.*add images, or name splits of your own in 'data.splits'"):
        stratified(len(labels), labels, held_out, 0, alone(labels))


def test_other_seeds_hold_out_other_images():
    labels = np.repeat(np.arange(20), 5)
    for groups in (alone(labels), np.arange(100) // 2):
        found = {tuple(stratified(100, labels, None, seed, groups)[1]) for seed in range(5)}
        assert len(found) == 5


def test_copies_do_not_gather_on_one_side():
    """A third of the pictures is stored twice: so it is among those that are held out."""
    groups = np.concatenate([np.arange(300), np.arange(150)])
    labels = groups % 3
    shares = []
    for seed in range(10):
        _, out = stratified(450, labels, 0.2, seed, groups)
        assert len(out) == 90
        assert np.bincount(labels[out]).tolist() == [30, 30, 30]
        shares.append(np.isin(groups[out], np.arange(150)).mean())
    assert np.mean(shares) == pytest.approx(2 / 3, abs=0.06)


ALL = {"train": 100, "validation": 20, "test": 10}
CHOICES = {  # splits, recipe, those with labels -> origins, and what is passed over
    "as they are": (ALL, {}, ALL, ["split train", "split validation", "split test"], []),
    "no labels at all": (ALL, {}, [], ["split train", "split validation", "split test"], []),
    "a test split without labels": (
        ALL,
        {},
        ["train", "validation"],
        ["split train", "10% of split train", "split validation (split test has no labels)"],
        ["test"],
    ),
    "a validation split without labels": (
        ALL,
        {},
        ["train", "test"],
        ["split train", "10% of split train (split validation has no labels)", "split test"],
        ["validation"],
    ),
    "only train has labels": (
        ALL,
        {},
        ["train"],
        [
            "split train",
            "10% of split train (split validation has no labels)",
            "10% of split train (split test has no labels)",
        ],
        ["validation", "test"],
    ),
    "a test split without labels and nothing else": (
        {"train": 100, "test": 10},
        {},
        ["train"],
        ["split train", "10% of split train", "10% of split train (split test has no labels)"],
        ["test"],
    ),
    "named, so taken without labels": (
        ALL,
        {"test": "test[:5]"},
        ["train", "validation"],
        ["split train", "split validation", "split test[:5] (without labels)"],
        [],
    ),
    "validation tests": (
        {"train": 100, "val": 20},
        {},
        ["train", "val"],
        ["split train", "10% of split train", "split val"],
        [],
    ),
    "no split for two roles": (
        {"test": 100},
        {"train": "test"},
        ["test"],
        ["split test", "10% of split test", "10% of split test"],
        [],
    ),
    "nor a part of the training split": (
        {"test": 100},
        {"train": "test[:50]"},
        ["test"],
        ["split test[:50]", "10% of split test[:50]", "10% of split test[:50]"],
        [],
    ),
    "validation is the test set by name": (
        ALL,
        {"test": "validation"},
        ALL,
        ["split train", "10% of split train", "split validation"],
        [],
    ),
}


@pytest.mark.parametrize("case", CHOICES)
def test_labelled_splits_are_found_and_said(case):
    sizes, recipe, labelled, origins, unlabelled = CHOICES[case]
    chosen = choose(sizes, SplitsSection(**recipe), labelled)
    assert [chosen.origin[role] for role in ("train", "validation", "test")] == origins
    assert sorted(chosen.unlabelled) == sorted(unlabelled)


def test_a_missing_training_split_names_what_there_is():
    with pytest.raises(UsageError, match=r"no split 'train': name one of holdout, test in 'data.splits.train'"):
        choose({"holdout": 5, "test": 5}, SplitsSection(), [])


@pytest.mark.parametrize(
    ("sizes", "labelled", "origins", "images"),
    [
        ({"train": 100}, ["train"], {"test": "all images"}, 100),
        ({"test": 10}, ["test"], {"test": "split test"}, 10),
        ({"val": 10}, ["val"], {"test": "split val"}, 10),
        ({"train": 100, "holdout": 5}, [], {"test": "all images"}, 105),
        (ALL, ALL, {"train": "split train", "validation": "split validation", "test": "split test"}, 10),
        (
            ALL,
            ["train", "validation"],
            {"train": "split train", "test": "split validation (split test has no labels)"},
            20,
        ),
        ({"train": 9, "test": 4}, ["train"], {"test": "all images"}, 13),
    ],
)
def test_what_is_evaluated_is_the_test_split_or_everything(sizes, labelled, origins, images):
    chosen = choose_to_evaluate(sizes, labelled)
    assert chosen.origin == origins
    assert len(chosen.given["test"]) == images


@pytest.mark.parametrize(
    ("section", "sizes"),
    [
        ({"validation": 0.2, "test": 0.2}, [600, 200, 200]),
        ({"validation": 0.5, "test": 0.25}, [250, 500, 250]),
        ({"test": 0.15}, [765, 85, 150]),
        ({}, [810, 90, 100]),
    ],
)
def test_fractions_are_of_the_whole_training_split(section, sizes):
    chosen = choose({"train": 1000}, SplitsSection(**section), ["train"])
    parts = divide(chosen, np.arange(1000) % 5, np.arange(1000), 0)
    assert [len(parts[role]) for role in ("train", "validation", "test")] == sizes
