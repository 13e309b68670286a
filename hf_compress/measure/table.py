"""The report as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table


def report_table(report: dict[str, Any]) -> Table:
    """Return one row a stage, with ratios to the first row."""
    rows = report["rows"]
    qualities = list(dict.fromkeys(key for row in rows for key in row["quality"]))
    batches = list(rows[0]["latency"])
    table = Table(title="Result on the test images", title_justify="left")
    table.add_column("stage")
    for heading in (*qualities, "parameters", "non-zero", "MACs", "bytes", "memory", *(f"{b} p50" for b in batches)):
        table.add_column(heading.replace("_", " "), justify="right")
    first = rows[0]
    for row in rows:
        costs = [
            _with_ratio(row["cost"][key], first["cost"][key], scale, unit)
            for key, scale, unit in (
                ("parameters", 1e6, "M"),
                ("nonzero_parameters", 1e6, "M"),
                ("macs", 1e6, "M"),
                ("bytes", 1e6, "MB"),
                ("peak_memory_bytes", 1e6, "MB"),
            )
        ]
        latencies = [
            _with_ratio(row["latency"][batch]["p50_ms"], first["latency"][batch]["p50_ms"], 1, "ms") for batch in batches
        ]
        scores = [f"{row['quality'][key]:.4f}" if key in row["quality"] else "" for key in qualities]
        table.add_row(row["stage"], *scores, *costs, *latencies)
    return table


def _with_ratio(value: float, reference: float, scale: float, unit: str) -> str:
    ratio = "" if value == reference else f" ({reference / value:.2f}x)"
    return f"{value / scale:.2f} {unit}{ratio}"
