"""A scatter plot of quality against cost, as SVG in the colours of the page that it stands in."""

import io
import re
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from hf_compress.report.measures import Measure

LOGARITHMIC = 8
SIZE = 4.8, 3.3  # inches
INK, SOFT, LINE, PAGE, PANEL, BEST, FRONT = COLOURS = [f"#0000{number:02}" for number in range(1, 8)]
NAMES = ("ink", "soft", "line", "page", "panel", "best", "front")  # variables of the page's style, light and dark
STYLE = {
    "font.size": 9,
    "text.color": SOFT,
    "text.parse_math": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "svg.fonttype": "none",
    "svg.hashsalt": "hf-compress",
}


def scatter(
    cost: Measure, quality: Measure, rows: list[dict[str, Any]], teachers: list[dict[str, Any]] | None = None
) -> Markup | None:
    """Plot rows of reports, numbered from 1, and their Pareto front; None where nothing has both figures.

    The `teachers` are diamonds beside the front. What belongs to a row carries its number as `data-point`.
    """
    numbers = [n for n, row in enumerate(rows, start=1) if cost.of(row) and quality.of(row) is not None]
    if not numbers:
        return None
    points = [(cost.of(rows[number - 1]), quality.of(rows[number - 1])) for number in numbers]
    best = pareto([(price, value if quality.higher_is_better else -value) for price, value in points])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        axes.grid(clip_on=False)
        axes.margins(0.1)
        axes.set(xlabel=cost.heading, ylabel=quality.heading)
        known = {(cost.of(row), quality.of(row)) for row in teachers or []}
        shown = sorted(point for point in known if point[0] and point[1] is not None)
        costs = [point[0] for point in (*points, *shown)]
        if max(costs) > LOGARITHMIC * min(costs):
            axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)) if axes.get_xscale() == "log" else MaxNLocator(5))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _without_zeros(cost.show(value))))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}" if value <= 1 else ""))
        front = sorted(points[index] for index in best)
        axes.step(*zip(*front, strict=True), where="post", color=FRONT, clip_on=False)
        for point in shown:
            axes.plot(*point, "D", markersize=8, color=PAGE, markeredgecolor=FRONT, clip_on=False)
            axes.annotate("teacher", point, xytext=(0, 8), textcoords="offset points", ha="center", fontsize=8)
        for index, (number, point) in enumerate(zip(numbers, points, strict=True)):
            fill, edge, ink = (BEST, BEST, PAGE) if index in best else (PANEL, SOFT, INK)
            name = {"gid": f"point-{number}"}
            axes.plot(*point, "o", markersize=13, color=fill, markeredgecolor=edge, clip_on=False, **name)
            axes.annotate(str(number), point, ha="center", va="center_baseline", fontsize=8, color=ink, **name)
        text = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = re.sub(' xmlns[^=]*="[^"]*"', "", text.getvalue()[text.getvalue().index("<svg") :])
    svg = re.sub(' id="point-([0-9]+)"', r' data-point="\1"', svg)
    for colour, name in zip(COLOURS, NAMES, strict=True):
        svg = svg.replace(colour, f"var(--{name})")
    return Markup(svg)


def pareto(points: list[tuple[float, float]]) -> set[int]:
    """Return the indices of the (cost, quality) points that no other point beats."""
    return {
        index
        for index, (cost, quality) in enumerate(points)
        if not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points)
    }


def _without_zeros(text: str) -> str:
    """`20.00 k` as `20 k`."""
    return re.sub(r"\.?0+(?= |$)", "", text) if "." in text else text
