"""The report as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from hf_compress.measure.intervals import difference, range_in_words, unit
from hf_compress.report.measures import Measure, measures


def report_table(report: dict[str, Any]) -> Table:
    """Return one column a stage, with the change against the first stage that has it behind every cost.

    Under a quality that has them lie the 95 % intervals of its differences.
    """
    rows = report["rows"]
    table = Table(title="Test images", title_justify="left", caption_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(row["stage"], justify="right")
    for measure in measures(report):
        table.add_row(measure.heading, *(_cell(measure, row, rows) for row in rows))
        if measure.metric is not None:
            for heading, cells in _differences(rows, measure.metric):
                table.add_row(heading, *cells)
    table.caption = "\n".join([*report.get("remarks", []), *report.get("not_deployed", [])]) or None
    return table


def _cell(measure: Measure, row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    first = next(row for row in rows if measure.of(row) is not None)
    change = "" if measure.less is None else measure.change(first, row)
    return measure.text(row) + ("" if change in ("", "same") else f" ({change})")


def _differences(rows: list[dict[str, Any]], metric: str) -> Iterator[tuple[str, list[str]]]:
    """Give the 95 % intervals of a metric's differences: against the first stage, and against the stage before."""
    first, *stages = [row["stage"] for row in rows]
    against_first = [difference(row, metric, first) for row in rows]
    against_before = [difference(row, metric, stage) for row, stage in zip(rows[2:], stages, strict=False)]
    for heading, entries in ((first, against_first), ("the stage before", [None, None, *against_before])):
        if any(entries):
            cells = ["" if entry is None else range_in_words(entry) for entry in entries]
            yield f" {unit(metric)} against {heading}", cells
