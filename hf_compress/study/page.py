"""Everything that a study leaves beside its run folders: report, table, figure, page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from markupsafe import Markup

from hf_compress.ground.files import write_text
from hf_compress.ground.manifest import adding
from hf_compress.report import card_facts as facts
from hf_compress.report.card import CARD
from hf_compress.report.markdown import fenced
from hf_compress.report.run import REPORT, write_report
from hf_compress.report.template import page_template
from hf_compress.study.config import Study
from hf_compress.study.figure import draw_quality
from hf_compress.study.table import csv_table, markdown_table, run_rows, study_report

FIGURE = "figures/quality.png"
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
        draw_quality(report, new / FIGURE)
        for name, text in (
            ("table.md", markdown_table(report)),
            ("table.csv", csv_table(report)),
            (CARD, _page(study, report, folder)),
        ):
            write_text(new / name, text)
        write_report(new / REPORT, report)
    return report


def _page(study: Study, report: dict[str, Any], folder: Path) -> str:
    headings, runs = run_rows(report)
    return page_template(None, "study.md")(
        report=report,
        title=folder.resolve().name,
        table=Markup(markdown_table(report)),
        figure=FIGURE,
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
