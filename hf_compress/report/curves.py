"""What trainings did, epoch by epoch."""

import math
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hf_compress.report.measures import CONTROL
from hf_compress.report.style import BLUE, GREY, ORANGE, WIDTH, drawable
from hf_compress.tasks import task_of

COLUMNS, MOST_STAGES, DOTTED = 4, 8, 30
STAGE = {"color": BLUE, "linestyle": "-", "label": "training"}
OF_CONTROL = {"color": GREY, "linestyle": "--", "linewidth": 1, "fillstyle": "none", "label": CONTROL}
BEST = {"color": ORANGE, "linestyle": "", "fillstyle": "none", "markeredgewidth": 2, "label": "best epoch"}


@dataclass(frozen=True)
class Curve:
    """A training: a value an epoch, and the best epoch, counted from 1; 0 where none was kept."""

    losses: list[float]
    qualities: list[float]
    best: int


def training(report: dict[str, Any]) -> Figure | None:
    """Draw loss and validation quality of every epoch, stage by stage; of more than 8 that trained, the last ones."""
    metric = task_of(report).deciding
    found = [(row["stage"], curves_of(row.get("details", {}), metric.name)) for row in report["rows"]]
    stages = [(stage, curves) for stage, curves in found if curves][-MOST_STAGES:]
    if not stages:
        return None
    alone = report.get("control", {}).get("details", {}).get("steps", {})
    columns = min(len(stages), COLUMNS)
    lines = math.ceil(len(stages) / columns)
    figure = Figure(figsize=(WIDTH if columns > 1 else 0.7 * WIDTH, 3.5 * lines), layout="constrained")
    handles: dict[str, Any] = {}
    places = figure.subfigures(lines, columns, squeeze=False).flat
    for number, (stage, curves) in enumerate(stages):
        panels = places[number].subplots(2, 1, sharex=True)
        _draw(panels, curves_of(alone.get(stage, {}), metric.name), OF_CONTROL)
        _draw(panels, curves, STAGE)
        panels[0].set_title(drawable(stage, 22))
        panels[1].set_xlabel("epoch")
        panels[1].margins(x=0.08, y=0.15)
        panels[1].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
        if number % columns == 0:
            panels[0].set_ylabel("training loss")
            panels[1].set_ylabel(f"validation {metric.words}")
        for line in panels[1].lines:
            handles.setdefault(line.get_label(), line)
    named = {label: handles[label] for label in ("training", CONTROL, "best epoch") if label in handles}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=len(named))
    return figure


def curves_of(details: dict[str, Any], metric: str) -> list[Curve]:
    """Return the trainings that a step tells of: its own, or those of its rounds, one after the other."""
    key, found = f"validation_{metric}", []
    for part in (details, *details.get("rounds", [])):
        epochs = part.get("epochs", [])
        if epochs and all(epoch.keys() >= {"training_loss", key} for epoch in epochs):
            losses, qualities = ([epoch[name] for epoch in epochs] for name in ("training_loss", key))
            found.append(Curve(losses, qualities, part.get("best_epoch", 1)))
    return found


def _draw(panels: list[Axes], curves: list[Curve], look: dict[str, Any]) -> None:
    """Draw trainings one after the other, and mark the best epoch of those of a stage that had a choice."""
    done = 0
    for curve in curves:
        epochs = range(done + 1, done + len(curve.losses) + 1)
        for axes, values in zip(panels, (curve.losses, curve.qualities), strict=True):
            axes.plot(epochs, values, marker="o" if len(values) <= DOTTED else "", markersize=4, **look)
        if look is STAGE and len(epochs) > 1 and curve.best:
            panels[1].plot(epochs[curve.best - 1], curve.qualities[curve.best - 1], "o", markersize=10, **BEST)
        done += len(epochs)
