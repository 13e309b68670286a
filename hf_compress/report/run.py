"""The run folder: a Hub repository with the model, its recipe and its report, checked before it is believed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hf_compress.ground.errors import UsageError, shown
from hf_compress.ground.files import read_text, write_text
from hf_compress.report.schema import Report, StudyReport

REPORT = "report.json"
RECIPE = "recipe.yaml"
MOST_OF_A_REPORT = 200_000_000


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


def read_report(path: Path) -> dict[str, Any]:
    """Return what a `report.json` holds: of a run, or of a study, whose `kind` says so.

    Raises:
        UsageError: it is none; the sentence names the file and the key.
    """
    try:
        values = json.loads(read_text(path, MOST_OF_A_REPORT), parse_constant=_refuse_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"'{path}' is no report: {reason}") from None
    check_report(values, str(path))
    return values


def check_report(values: Any, name: str) -> None:
    """Raise UsageError unless plain values are a report; `name` is for the sentence."""
    if not isinstance(values, dict):
        raise UsageError(f"'{name}' is no report of a run: it is no mapping")
    form = StudyReport if values.get("kind") == "study" else Report
    try:
        form.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"'{name}' is no report of a run: {_said(error.errors()[0])}") from None


def _said(error: Mapping[str, Any]) -> str:
    key = shown(".".join(map(str, error["loc"])))
    if error["type"] == "missing":
        return f"it lacks the key {key}"
    reason = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return reason
    return f"{key} cannot be {shown(error['input'])}: {reason[0].lower()}{reason[1:]}"


def _refuse_number(text: str) -> None:
    raise ValueError(f"it holds {text}, which is no number of JSON")


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"it holds {shown(text)}, which is too large")
    return number
