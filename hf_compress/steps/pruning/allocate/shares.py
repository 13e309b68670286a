"""How much each group or weight loses under one budget, from a measured sensitivity."""

from __future__ import annotations

import csv

import numpy as np

from hf_compress.ground.errors import RunError
from hf_compress.ground.files import user_path

BISECTIONS = 50


def shares_for_budget(file: str, sizes: dict[str, int], amount: float) -> dict[str, float]:
    """Return the fraction that each name loses, so that all together lose `amount` and none hurts more than another.

    Every share is the largest at which the measured loss of accuracy, or of what else decides, stays under one
    tolerance, which is found by bisection. Between measured ratios the loss is interpolated, and it never falls;
    losing everything costs 1, or what the worst measured ratio does.

    Args:
        file: CSV that `hf-compress sensitivity` wrote.
        sizes: channels or entries by name.
        amount: fraction of all of `sizes` to remove.

    Raises:
        RunError: the file cannot be read, or lacks one of the names.
    """
    curves = _curves(file)
    for name in sizes:
        if name not in curves:
            raise RunError(f"'sensitivity': {file} does not measure '{name}': run `hf-compress sensitivity` again")
    total = sum(sizes.values())

    def shares(tolerance: float) -> dict[str, float]:
        return {name: float(np.interp(tolerance, *curves[name])) for name in sizes}

    low, high = 0.0, max([1.0, *(losses[-2] for losses, _ in curves.values())])
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        gone = sum(share * sizes[name] for name, share in shares(middle).items())
        low, high = (middle, high) if gone < amount * total else (low, middle)
    return shares(high)


def _curves(file: str) -> dict[str, tuple[list[float], list[float]]]:
    """Return (losses, ratios) by name; losses rise strictly, so that each has one ratio."""
    points: dict[str, list[tuple[float, float]]] = {}
    try:
        with open(user_path(file), encoding="utf-8", newline="") as source:
            for row in csv.DictReader(source):
                points.setdefault(row["name"], []).append((float(row["ratio"]), float(row["drop"])))
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise RunError(f"'sensitivity': {file} is not a CSV of `hf-compress sensitivity` ({error!r})") from None
    return {name: _rising(measured) for name, measured in points.items()}


def _rising(measured: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    ratios, drops = zip(*sorted([(0.0, 0.0), *measured, (1.0, 1.0)]), strict=True)
    losses = np.maximum.accumulate(np.asarray(drops)) + 1e-6 * np.asarray(ratios)
    return losses.tolist(), list(ratios)
