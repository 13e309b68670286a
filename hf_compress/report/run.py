"""The run folder: a Hub repository with the model, its recipe and its report."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import write_text
from hf_compress.report.reading import check_report, read_report

REPORT = "report.json"
RECIPE = "recipe.yaml"


@dataclass
class Run:
    """A finished run.

    Attributes:
        folder: the run folder; loads with `from_pretrained`.
        report: what `report.json` holds.
    """

    folder: Path
    report: dict[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Read a run folder.

        Raises:
            UsageError: it is none, or its report is damaged.
        """
        path = Path(folder) / REPORT
        if not path.is_file():
            raise UsageError(f"'{folder}' is not a run folder: it has no {REPORT}")
        return cls(Path(folder), read_report(path))


def write_run(folder: Path, recipe: str, report: dict[str, Any]) -> None:
    """Write recipe and report into a run folder."""
    write_text(folder / RECIPE, recipe)
    write_report(folder / REPORT, report)


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Replace a report, which must be one: see `hf_compress.report.schema`."""
    text = json.dumps(report, indent=2, allow_nan=False)
    check_report(json.loads(text), str(path))
    write_text(path, text + "\n")
