"""Which images train, validate and test."""

from __future__ import annotations

import datasets
import numpy as np
from sklearn.model_selection import train_test_split

from hf_compress.errors import RunError, UsageError
from hf_compress.registry import did_you_mean
from hf_compress.sections import SplitsSection

USUAL_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}
LEFT_OUT = 0.1
NO_REST = 0.999  # three times 0.3333 means all images


def split(data: datasets.DatasetDict, section: SplitsSection, label_column: str | None, seed: int):
    """Divide a data set.

    What the recipe leaves open: `validation` and `test` are found by their usual names. Where a data set has one
    held-out split only, it is the test set, and a tenth of the training images validates: choosing the best epoch on
    the images that are reported would flatter every figure.

    Returns:
        `DatasetDict` with train, validation and test, and a dict that says in words how each came about.

    Raises:
        UsageError: a named split does not exist.
        RunError: a class has too few images to be divided.
    """
    wanted = {role: getattr(section, role) for role in USUAL_NAMES}
    if isinstance(wanted["train"], float):
        return _by_fractions(data, wanted, label_column, seed)
    found = {role: wanted[role] or _usual(data, role) for role in USUAL_NAMES}
    if found["train"] is None:
        raise UsageError(f"the data set has no split 'train': name one of {', '.join(data)} in 'data.splits.train'")
    if wanted["validation"] is None and found["test"] is None and found["validation"]:
        found["test"], found["validation"] = found["validation"], None
    result, origin = {}, {}
    for role, name in found.items():
        if isinstance(name, str):
            result[role] = named_slice(data, name, f"data.splits.{role}")
            origin[role] = f"split {name}"
    for role in ("test", "validation"):
        if role not in result:
            fraction = found[role] or LEFT_OUT
            result["train"], result[role] = _divide(result["train"], fraction, label_column, seed)
            origin[role] = f"{fraction:.0%} of {origin['train']}"
    return datasets.DatasetDict({role: result[role] for role in USUAL_NAMES}), origin


def _usual(data: datasets.DatasetDict, role: str) -> str | None:
    return next((name for name in USUAL_NAMES[role] if name in data), None)


def named_slice(data: datasets.DatasetDict, instruction: str, key: str) -> datasets.Dataset:
    """Read `test`, `test[:500]` or `train[10%:20%]`, in the syntax of `datasets`; `key` is its place in the recipe."""
    name = instruction.partition("[")[0]
    if name not in data:
        raise UsageError(f"'{key}' names the split '{name}', which is not there{did_you_mean(name, data)}")
    if name == instruction:
        return data[name]
    sizes = {split_name: len(rows) for split_name, rows in data.items()}
    try:
        (bounds,) = datasets.ReadInstruction.from_spec(instruction).to_absolute(sizes)
    except (ValueError, AssertionError) as error:
        raise UsageError(f"'{key}' cannot be '{instruction}': {error}") from None
    indices = range(sizes[name])[bounds.from_ or 0 : bounds.to]
    return data[name].select(indices if indices else [])


def _by_fractions(data: datasets.DatasetDict, fractions: dict[str, float], label_column: str | None, seed: int):
    rest = datasets.concatenate_datasets(list(data.values()))
    total, result = len(rest), {}
    nothing_left = sum(fractions.values()) > NO_REST
    for role in ("test", "validation", "train"):
        if role == "train" and nothing_left:
            result[role] = rest  # all that is left, whichever way the others were rounded
        else:
            rest, result[role] = _divide(rest, round(fractions[role] * total), label_column, seed)
    origin = {role: f"{fractions[role]:.0%} of all images" for role in USUAL_NAMES}
    return datasets.DatasetDict({role: result[role] for role in USUAL_NAMES}), origin


def _divide(rows: datasets.Dataset, held_out: float | int, label_column: str | None, seed: int):
    """Return (rest, held out), with the same share of every class in both."""
    labels = None
    if label_column is not None:
        labels = np.asarray([-1 if label is None else label for label in rows[label_column]])
    rest, out = stratified(len(rows), labels, held_out, seed)
    return rows.select(np.sort(rest)), rows.select(np.sort(out))


def stratified(total: int, labels: np.ndarray | None, held_out: float | int, seed: int) -> list[np.ndarray]:
    """Return the indices of (rest, held out) of `total` images, with the same share of every label in both.

    Raises:
        RunError: a label has too few images to be divided.
    """
    try:
        return train_test_split(np.arange(total), test_size=held_out, stratify=labels, random_state=seed)
    except ValueError as error:
        raise RunError(f"the images cannot be divided into equal shares of every class: {error}") from None
