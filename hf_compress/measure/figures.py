"""Figures of a run, drawn from its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CAPTIONS: dict[str, str] = {}


def draw_figures(report: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what the report has facts for; returns the files."""
    return []
