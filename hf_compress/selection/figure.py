"""The figure of a selection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AXES = {
    "latency_ms": ("latency of one image, ms", 1),
    "macs": ("MACs, M", 1e6),
    "parameters": ("parameters, M", 1e6),
    "bytes": ("size on disk, MB", 1e6),
}


def selection(report: dict[str, Any]) -> Figure | None:
    """Draw accuracy against the budget's cost: after the first probe with the Pareto front, and after the last."""
    found = report.get("selection")
    probed = [row for row in found["candidates"] if row.get("probe_accuracies")] if found else []
    if not probed:
        return None
    from matplotlib.figure import Figure

    from hf_compress.hub.scatter import pareto
    from hf_compress.measure.figures import BLUE, GREY, ORANGE, WIDTH

    key = next(key for key in AXES if key in found["budget"])
    label, unit = AXES[key]
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    axes = figure.subplots()
    first = [(row[key] / unit, row["probe_accuracies"][0]) for row in probed]
    front = sorted(first[index] for index in pareto(first))
    axes.step(*zip(*front, strict=True), where="post", color=GREY, linewidth=1, label="Pareto front after it")
    axes.plot(*zip(*first, strict=True), "o", color=BLUE, fillstyle="none", label="first probe")
    for row, (cost, accuracy) in zip(probed, first, strict=True):
        last = row["probe_accuracies"][-1]
        chosen = {"model": row["model"], "width": row["width"]} == found["winner"]
        axes.plot([cost, cost], [accuracy, last], color=BLUE, linewidth=1)
        axes.plot(cost, last, "o", color=BLUE, label="last probe" if row is probed[0] else None)
        if chosen:
            axes.plot(
                cost, last, "o", color=ORANGE, markersize=11, fillstyle="none", markeredgewidth=2, label="chosen"
            )
        axes.annotate(
            f"{row['model']} x{row['width']:g}",
            (cost, last),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.axvline(found["budget"][key] / unit, color=ORANGE, linestyle="--", linewidth=1, label="budget")
    axes.set_xlabel(label)
    axes.set_ylabel("validation accuracy")
    axes.margins(x=0.12, y=0.15)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure
