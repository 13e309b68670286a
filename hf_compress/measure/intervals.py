"""How sure the difference between two models is that were measured on the same test images."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hf_compress.tasks import known_metrics

RESAMPLES = 2000
TAILS = 0.025, 0.975

ByImage = Mapping[str, Sequence[float]]  # by metric: one number a test image, their mean is the metric


def differences(by_image: ByImage, others: Mapping[str, ByImage]) -> list[dict[str, Any]]:
    """Compare a model with others, given their numbers for the same images by stage, metric by metric.

    Returns:
        Entries of a row's `differences`: `metric`, `against` (a stage), and what `interval` returns.
    """
    return [
        {"metric": metric, "against": stage, **interval(theirs[metric], by_image[metric])}
        for stage, theirs in others.items()
        for metric in by_image
        if metric in theirs
    ]


def interval(before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    """Return by how much the means differ, and the 95 % interval of that.

    A paired bootstrap: images are drawn with replacement, 2,000 times, each with the numbers of both models; the
    interval lies between the 2.5th and the 97.5th percentile (Efron and Tibshirani, "An Introduction to the
    Bootstrap", 1993, sec. 13.3). Only how many images have which difference matters: these counts are drawn.

    Args:
        before, after: one number an image, in the same order, such as 1 for a right answer and 0 for a wrong one.

    Returns:
        `difference`, `low` and `high`, positive where `after` is higher.
    """
    change = np.asarray(after) - np.asarray(before)
    kinds, counts = np.unique(change, return_counts=True)
    generator = np.random.default_rng(0)
    drawn = [generator.multinomial(len(change), counts / len(change)) @ kinds for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, TAILS) / len(change)
    return {"difference": float(change.mean()), "low": float(low), "high": float(high)}


def speedup(before: Sequence[float], after: Sequence[float]) -> dict[str, float]:
    """Return how many times as fast the median pass became, and the 95 % interval of that.

    A paired bootstrap of the turns in which both were timed. A slow moment lasts longer than a turn, so blocks of
    successive turns are drawn, of the cube root of their number, from a circle (Politis and Romano, "A circular
    block-resampling procedure for stationary data", 1992), 2,000 times.

    Args:
        before, after: seconds, one a turn, in their order.

    Returns:
        `ratio`, `low` and `high`, above 1 where `after` is faster.
    """
    turns, times = len(before), np.array([before, after])
    block = round(turns ** (1 / 3))
    starts = np.random.default_rng(0).integers(turns, size=(RESAMPLES, -(-turns // block), 1))
    drawn = ((starts + np.arange(block)) % turns).reshape(RESAMPLES, -1)[:, :turns]
    old, new = np.median(times[:, drawn], axis=2)
    low, high = np.quantile(old / new, TAILS)
    ratio = np.median(before) / np.median(after)
    return {"ratio": float(ratio), "low": float(low), "high": float(high)}


def difference(row: dict[str, Any], metric: str | None, against: str) -> dict[str, Any] | None:
    """Return a row's entry for a metric and another stage; None where there is none."""
    entries = row.get("differences", [])
    return next((entry for entry in entries if (entry["metric"], entry["against"]) == (metric, against)), None)


def unit(metric: str | None) -> str:
    """Return in what differences of a metric are told: ` points`, or nothing where it is no percentage."""
    known = known_metrics()
    return " points" if metric in known and known[metric].share else ""


def range_in_words(entry: dict[str, Any]) -> str:
    """Write the interval: `-0.81 to +0.30`, in the metric's unit."""
    return f"{_signed(entry, 'low')} to {_signed(entry, 'high')}"


def with_range(entry: dict[str, Any]) -> str:
    """Write difference and interval: `-0.76 points (-1.16 to -0.36)`, of a ROC AUC `-0.0021 (-0.0043 to +0.0002)`."""
    return f"{_signed(entry, 'difference')}{unit(entry['metric'])} ({range_in_words(entry)})"


def in_words(entry: dict[str, Any], images: int) -> str:
    """Say no more of a difference than the test images allow."""
    span = range_in_words(entry) + unit(entry["metric"])
    if entry["low"] <= 0 <= entry["high"]:
        return f"no difference that {images:,} test images can show ({span})"
    word = "higher" if entry["difference"] > 0 else "lower"
    return f"{_signed(entry, 'difference')[1:]}{unit(entry['metric'])} {word} ({span})"


def _signed(entry: dict[str, Any], key: str) -> str:
    return f"{100 * entry[key]:+.2f}" if unit(entry["metric"]) else f"{entry[key]:+.4f}"
