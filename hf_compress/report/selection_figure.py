"""The figure of a selection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hf_compress.report.scatter import pareto
from hf_compress.report.style import BLUE, GREY, ORANGE, WIDTH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = {
    "latency_ms": ("latency of one image, ms", 1),
    "macs": ("MACs, M", 1e6),
    "parameters": ("parameters, M", 1e6),
    "bytes": ("size on disk, MB", 1e6),
}


def selection(report: dict[str, Any]) -> Figure | None:
    """Draw accuracy after the first and the last probe of each candidate against the cost that the budget bounds."""
    found = report.get("selection")
    probed = [row for row in found["candidates"] if row.get("probe_accuracies")] if found else []
    if not probed:
        return None
    from matplotlib.figure import Figure

    key = next(key for key in AXES if key in found["budget"])
    label, unit = AXES[key]
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    costs = [row[key] / unit for row in probed]
    first, last = ([row["probe_accuracies"][index] for row in probed] for index in (0, -1))
    points = list(zip(costs, first, strict=True))
    front = sorted(points[index] for index in pareto(points))
    axes.plot(costs, first, "o", color=BLUE, fillstyle="none", label="first probe")
    axes.step(*zip(*front, strict=True), where="post", color=GREY, linewidth=1, label="Pareto front of it")
    axes.vlines(costs, first, last, color=BLUE, linewidth=1)
    axes.plot(costs, last, "o", color=BLUE, label="last probe")
    for row, cost, accuracy in zip(probed, costs, last, strict=True):
        if {"model": row["model"], "width": row["width"]} == found["winner"]:
            ring = {"markersize": 11, "fillstyle": "none", "markeredgewidth": 2}
            axes.plot(cost, accuracy, "o", color=ORANGE, label="chosen", **ring)
        name = f"{row['model']} x{row['width']:g}"
        place = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center"}
        axes.annotate(name, (cost, accuracy), fontsize=8, **place)
    axes.axvline(found["budget"][key] / unit, color=ORANGE, linestyle="--", linewidth=1, label="budget")
    axes.set_xlabel(label)
    axes.set_ylabel("validation accuracy")
    axes.margins(x=0.12, y=0.15)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure
