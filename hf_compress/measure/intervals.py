"""How sure the difference between two models is that answered the same test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000
TAILS = 0.025, 0.975

Answers = Mapping[str, Sequence[int]]  # by metric: for each test image 1 where the model was right, else 0


def differences(right: Answers, others: Mapping[str, Answers]) -> list[dict[str, Any]]:
    """Compare a model with others, metric by metric.

    Args:
        right: its answers.
        others: those of the other models to the same images, by stage.

    Returns:
        Entries of a row's `differences`: `metric`, `against` (a stage), and what `interval` returns.
    """
    return [
        {"metric": metric, "against": stage, **interval(theirs[metric], right[metric])}
        for stage, theirs in others.items()
        for metric in right
        if metric in theirs
    ]


def interval(before: Sequence[int], after: Sequence[int]) -> dict[str, float]:
    """Return by how much the share of right answers differs, and the 95 % interval of that.

    A paired bootstrap: images are drawn with replacement, 2,000 times, each with the answers of both models; the
    interval lies between the 2.5th and the 97.5th percentile (Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993, sec. 13.3). Only how many images each model alone is right about matters: these are drawn.

    Args:
        before, after: whether each image was answered right, in the same order.

    Returns:
        `difference`, `low` and `high`, positive where `after` is right more often.
    """
    change = np.asarray(after, dtype=int) - np.asarray(before, dtype=int)
    kinds, counts = np.unique(change, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(change), counts / len(change), RESAMPLES)
    low, high = np.quantile(drawn @ kinds / len(change), TAILS)
    return {"difference": float(change.mean()), "low": float(low), "high": float(high)}


def difference(row: dict[str, Any], metric: str | None, against: str) -> dict[str, Any] | None:
    """Return a row's entry for a metric and another stage; None where there is none."""
    entries = row.get("differences", [])
    return next((entry for entry in entries if (entry["metric"], entry["against"]) == (metric, against)), None)


def points(entry: dict[str, Any]) -> str:
    """Write the interval in points: `-0.81 to +0.30`."""
    return f"{100 * entry['low']:+.2f} to {100 * entry['high']:+.2f}"


def in_points(entry: dict[str, Any]) -> str:
    """Write difference and interval: `-0.76 points (-1.16 to -0.36)`."""
    return f"{100 * entry['difference']:+.2f} points ({points(entry)})"


def in_words(entry: dict[str, Any], images: int) -> str:
    """Say no more of a difference than the test images allow."""
    if entry["low"] <= 0 <= entry["high"]:
        return f"no difference that {images:,} test images can show ({points(entry)} points)"
    word = "higher" if entry["difference"] > 0 else "lower"
    return f"{abs(100 * entry['difference']):.2f} points {word} ({points(entry)} points)"
