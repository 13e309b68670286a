"""Exports as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from hf_compress.tasks import known_metrics


def export_table(rows: list[dict[str, Any]]) -> Table:
    """Return one column a file: size, how far it is from PyTorch, quality, and latency against PyTorch's."""
    table = Table(title="Exports, checked on test images", title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(row["file"], justify="right", overflow="fold")
    table.add_row("precision", *(row["precision"] for row in rows))
    table.add_row("size", *(f"{row['bytes'] / 1e6:.2f} MB" for row in rows))
    table.add_row("largest difference of a logit", *(f"{row['max_difference']:.2g}" for row in rows))
    table.add_row("same class as PyTorch", *(f"{row['top1_agreement']:.2%}" for row in rows))
    for key in known_metrics():
        if all(key in row for row in rows):
            table.add_row(key.replace("_", " "), *(f"{row[key]:.4f}" for row in rows))
    for quantile in ("p50_ms", "p95_ms"):
        heading = f"one image, {quantile.removesuffix('_ms')} (against PyTorch)"
        table.add_row(heading, *(_against_eager(row, quantile) for row in rows))
    return table


def _against_eager(row: dict[str, Any], quantile: str) -> str:
    own, eager = (row[key]["batch_1"][quantile] for key in ("latency", "eager_latency"))
    return f"{own:.2f} ms ({eager / own:.2f}x)"
