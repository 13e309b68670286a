"""Everything that a study leaves beside its run folders: report, table, figure, page."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_compress.ground.files import write_text
from hf_compress.ground.manifest import adding
from hf_compress.report import card_facts as facts
from hf_compress.report.card import CARD
from hf_compress.report.markdown import fenced
from hf_compress.report.measures import CONTROL, in_thousands, quality_name
from hf_compress.report.run import REPORT, write_report
from hf_compress.report.style import BLUE, GREY, PALE, STYLE, drawable, make_panels, save_figure, top_down
from hf_compress.report.template import page_template
from hf_compress.study.config import Study
from hf_compress.study.table import csv_table, markdown_table, run_rows, study_report

FIGURE = "figures/quality.png"
LABEL_LENGTH, RUN_HEIGHT, PANELS = 40, 0.42, 2
BELOW = 0.25  # of the distance to the next run
PAGE_FILES = ("table.md", "table.csv", CARD, REPORT, FIGURE)


def write_results(
    study: Study,
    finished: dict[tuple[str, int], dict[str, Any]],
    folder: Path,
    latencies: dict[str, dict] | None = None,
) -> dict[str, Any]:
    """Write `report.json`, `table.md`, `table.csv`, the figure and README.md; see `study_report` for the arguments.

    Raises:
        UsageError: one of them was changed by someone else since it was written.
    """
    report = study_report(study, finished, folder, latencies)
    with adding(folder) as new:
        (new / FIGURE).parent.mkdir(exist_ok=True)
        with mpl.rc_context(STYLE):
            save_figure(quality_figure(report), new / FIGURE)
        write_text(new / "table.md", markdown_table(report))
        write_text(new / "table.csv", csv_table(report))
        write_text(new / CARD, _page(study, report, folder))
        write_report(new / REPORT, report)
    return report


def quality_figure(report: dict[str, Any]) -> Figure:
    """Draw one panel a quality, accuracy and ROC AUC; beside each run its parameters, below it its control, hollow."""
    rows = [row for row in report["rows"] if row["seeds"]]
    keys = list(dict.fromkeys(key for row in rows for key in row["quality"]))[:PANELS]
    figure, panels = make_panels(height=0.9 + RUN_HEIGHT * len(rows), columns=len(keys))
    for axes, key in zip(panels, keys, strict=True):
        for index, row in enumerate(rows):
            _draw_spread(axes, row["quality"].get(key), index)
            _draw_spread(axes, row.get(CONTROL, {}).get(key), index + BELOW, markerfacecolor="white")
        axes.set_yticks(range(len(rows)), [_label(row) for row in rows], fontsize=8)
        axes.set_xlabel(quality_name(key))
        axes.locator_params(axis="x", nbins=5)
        top_down(axes, len(rows))
    return figure


def _draw_spread(axes: Axes, found: dict[str, Any] | None, height: float, **style: str) -> None:
    """Draw the seeds, mean and deviation of one quality."""
    if found is not None:
        axes.plot(found["values"], [height] * len(found["values"]), "o", color=PALE, markersize=5, **style)
        axes.errorbar(
            found["mean"],
            height,
            xerr=found["std"],
            **{"fmt": "o", "color": BLUE, "ecolor": GREY, "markersize": 5, "capsize": 3},
            **style,
        )


def _label(row: dict[str, Any]) -> str:
    return f"{drawable(row['label'], LABEL_LENGTH)}\n{in_thousands(row['cost']['parameters'])} parameters"


def _page(study: Study, report: dict[str, Any], folder: Path) -> str:
    headings, runs = run_rows(report)
    return page_template(None, "study.md")(
        report=report,
        title=folder.resolve().name,
        table=Markup(markdown_table(report)),
        figure=FIGURE,
        controlled=any(CONTROL in row for row in report["rows"]),
        wanted=len(study.jobs()),
        test_images=facts.test_images(report),
        device=facts.device(report) if "latency" in report["rows"][0] else None,
        data_name=facts.short_name(report["data"]["path"]),
        data_rows=facts.data_rows(report),
        run_headings=headings,
        runs=runs,
        study=fenced(study.to_yaml(), "yaml"),
        environment=facts.environment_rows(report),
    )
