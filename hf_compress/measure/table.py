"""The report as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table

from hf_compress.measure.intervals import difference, range_in_words, unit
from hf_compress.measure.remarks import latencies

COSTS = {
    "parameters": ("parameters", "M"),
    "nonzero_parameters": ("non-zero", "M"),
    "macs": ("MACs", "M"),
    "bytes": ("on disk", "MB"),
    "peak_memory_bytes": ("memory", "MB"),
}


def report_table(report: dict[str, Any]) -> Table:
    """Return one column a stage, with the change against the first stage behind every cost.

    Under a quality that has them lie the 95 % intervals of its differences.
    """
    rows = report["rows"]
    table = Table(title="Test images", title_justify="left", caption_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(row["stage"], justify="right")
    for key in dict.fromkeys(key for row in rows for key in row["quality"]):
        table.add_row(key.replace("_", " "), *(_score(row["quality"].get(key)) for row in rows))
        for heading, cells in _differences(rows, key):
            table.add_row(heading, *cells)
    for key, (heading, mega) in COSTS.items():
        table.add_row(heading, *_with_ratios([row["cost"][key] / 1e6 for row in rows], mega))
    for runtime in dict.fromkeys(name for row in rows for name in latencies(row)):
        for batch in rows[0]["latency"]:
            for quantile in ("p50_ms", "p95_ms"):
                heading = f"{runtime}, {batch.replace('_', ' ')}, {quantile.removesuffix('_ms')}"
                values = [latencies(row).get(runtime, {batch: {quantile: None}})[batch][quantile] for row in rows]
                table.add_row(heading, *_with_ratios(values, "ms"))
    table.caption = "\n".join([*report.get("remarks", []), *report.get("not_deployed", [])]) or None
    return table


def _differences(rows: list[dict[str, Any]], metric: str) -> Iterator[tuple[str, list[str]]]:
    """Give the 95 % intervals of a metric's differences: against the first stage, and against the stage before."""
    first, *stages = [row["stage"] for row in rows]
    against_first = [difference(row, metric, first) for row in rows]
    against_before = [difference(row, metric, stage) for row, stage in zip(rows[2:], stages, strict=False)]
    for heading, entries in ((first, against_first), ("the stage before", [None, None, *against_before])):
        if any(entries):
            cells = ["" if entry is None else range_in_words(entry) for entry in entries]
            yield f" {unit(metric)} against {heading}", cells


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _with_ratios(values: list[float | None], unit: str) -> list[str]:
    """Write values, behind each by how much it is less than the first; empty where there is none."""
    first = next(value for value in values if value is not None)
    return [
        "" if value is None else f"{value:.2f} {unit}" + ("" if value == first else f" ({first / value:.2f}x)")
        for value in values
    ]
