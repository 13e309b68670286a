"""The figure of a study: every run's quality, seed by seed, with mean and standard deviation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_compress.report.measures import in_thousands, quality_name
from hf_compress.report.style import BLUE, GREY, PALE, STYLE, drawable, make_panels, save_figure, top_down

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABEL_LENGTH, RUN_HEIGHT, PANELS = 40, 0.42, 2


def draw_quality(report: dict[str, Any], path: Path) -> None:
    """Write the figure as PNG; `report` is that of a study."""
    import matplotlib as mpl

    path.parent.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        save_figure(quality_figure(report), path)


def quality_figure(report: dict[str, Any]) -> Figure:
    """Draw one panel a quality, accuracy and ROC AUC; beside each run its parameters."""
    rows = [row for row in report["rows"] if row["seeds"]]
    keys = list(dict.fromkeys(key for row in rows for key in row["quality"]))[:PANELS]
    figure, panels = make_panels(height=0.9 + RUN_HEIGHT * len(rows), columns=len(keys))
    for axes, key in zip(panels, keys, strict=True):
        for index, row in enumerate(rows):
            found = row["quality"].get(key)
            if found is None:
                continue
            axes.plot(found["values"], [index] * len(found["values"]), "o", color=PALE, markersize=5)
            axes.errorbar(
                found["mean"], index, xerr=found["std"], fmt="o", color=BLUE, ecolor=GREY, markersize=5, capsize=3
            )
        axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
        axes.set_xlabel(quality_name(key))
        axes.locator_params(axis="x", nbins=5)
        top_down(axes, len(rows))
    for axes in panels[1:]:
        axes.tick_params(labelleft=False)
    return figure


def _label(row: dict[str, Any]) -> str:
    return f"{drawable(row['label'], LABEL_LENGTH)}\n{in_thousands(row['cost']['parameters'])} parameters"
