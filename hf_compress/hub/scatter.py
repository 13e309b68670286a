"""A scatter plot of quality against cost as plain numbers, for a template to write as SVG."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hf_compress.hub.measures import Measure

WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 18, 16, 44
LOGARITHMIC = 8


@dataclass(frozen=True)
class Point:
    """One run: its number on the page, position in pixels, and what it shows."""

    number: int
    x: float
    y: float
    text: str
    best: bool


@dataclass(frozen=True)
class Scatter:
    """The plot.

    Attributes:
        front: SVG path of the Pareto front: no other point is at least as good in both, and better in one.
        x_ticks, y_ticks: position in pixels and label.
    """

    title: str
    x_label: str
    y_label: str
    points: list[Point]
    front: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    bottom: int = HEIGHT - BOTTOM
    right: int = WIDTH - RIGHT
    top: int = TOP

    @classmethod
    def of(cls, cost: Measure, quality: Measure, rows: list[tuple[str, dict[str, Any]]]) -> Scatter | None:
        """Plot rows of reports by name; None where nothing has both figures."""
        measured = [
            (number, name, cost.of(row), quality.of(row))
            for number, (name, row) in enumerate(rows, start=1)
            if cost.of(row) and quality.of(row) is not None
        ]
        if not measured:
            return None
        costs, qualities = [entry[2] for entry in measured], [entry[3] for entry in measured]
        x, x_ticks = _axis(costs, LEFT + 14, WIDTH - RIGHT - 14, cost.show, max(costs) > LOGARITHMIC * min(costs))
        y, y_ticks = _axis(qualities, HEIGHT - BOTTOM - 14, TOP + 14, lambda value: f"{value:.3g}", False)
        best = pareto(list(zip(costs, qualities, strict=True)))
        points = [
            Point(number, x(c), y(q), f"{name}: {quality.show(q)}, {cost.show(c)}", index in best)
            for index, (number, name, c, q) in enumerate(measured)
        ]
        front = sorted((point for point in points if point.best), key=lambda point: (point.x, point.y))
        return cls(
            f"{quality.heading} against {cost.heading}",
            cost.heading,
            quality.heading,
            points,
            _staircase(front),
            x_ticks,
            [(position, label) for position, label in y_ticks if float(label) <= 1],
        )


def pareto(points: list[tuple[float, float]]) -> set[int]:
    """Return the indices of the (cost, quality) points that no other point beats."""
    return {
        index
        for index, (cost, quality) in enumerate(points)
        if not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points)
    }


def _staircase(front: list[Point]) -> str:
    if not front:
        return ""
    path = f"M{front[0].x:.1f},{front[0].y:.1f}"
    return path + "".join(f"H{point.x:.1f}V{point.y:.1f}" for point in front[1:])


def _axis(
    values: list[float], start: float, end: float, show: Callable[[float], str], logarithmic: bool
) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """Return the scale from values to pixels, and its ticks."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    low, high = min(values), max(values)
    if low == high:
        low, high = low - abs(low or 1) * 0.1, high + abs(high or 1) * 0.1
    measure: Callable[[float], float] = math.log10 if logarithmic else float

    def scale(value: float) -> float:
        return start + (end - start) * (measure(value) - measure(low)) / (measure(high) - measure(low))

    locator = LogLocator(subs=(1, 3)) if logarithmic else MaxNLocator(5)
    ticks = [float(tick) for tick in locator.tick_values(low, high)]
    return scale, [(scale(tick), _without_zeros(show(tick))) for tick in ticks if low <= tick <= high]


def _without_zeros(text: str) -> str:
    """`20.00 k` as `20 k`."""
    return re.sub(r"\.?0+(?= |$)", "", text) if "." in text else text
