"""Predictions and benchmarks as text."""

from itertools import zip_longest
from typing import Any


def predictions_table(rows: list[dict[str, Any]]) -> str:
    """Return a line a picture, or one for each of its objects: its name, and what is said of it."""
    return _aligned(line for row in rows for line in _lines(row))


def _lines(row: dict[str, Any]) -> list[list[str]]:
    image = row["image"]
    if "objects" in row:
        lines = [
            [image, each["label"], f"{each['score']:.4f}", *(f"{edge:.1f}" for edge in each["box"])]
            for each in row["objects"]
        ]
        return lines or [[image, "nothing"]]
    if "pixels" in row:
        return [[image, *(f"{each['label']} {each['share']:.1%}" for each in row["pixels"])]]
    if "depth" in row:
        return [[image, f"{row['depth']['smallest']:.4g} to {row['depth']['largest']:.4g}"]]
    return [[image, *(f"{each['label']} {each['probability']:.4f}" for each in row["classes"])]]


def benchmark_table(rows: list[dict[str, Any]]) -> str:
    """Return a line a file; times are of one picture, and compared with the first file."""
    headings = ["file", "size", "p50", "p95", "speed", "noise", "agreement", "accuracy"]
    first = rows[0]["p50_ms"]
    lines = [
        [
            row["file"],
            f"{row['bytes'] / 1e6:.2f} MB" if row["bytes"] else "",
            f"{row['p50_ms']:.3f} ms",
            f"{row['p95_ms']:.3f} ms",
            f"{first / row['p50_ms']:.2f}x",
            f"{row['noise']:.1%}",
            f"{row['agreement']:.2%}",
            f"{row['accuracy']:.4f}" if "accuracy" in row else "",
        ]
        for row in rows
    ]
    return _aligned([headings, *lines])


def _aligned(rows) -> str:
    rows = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    )
