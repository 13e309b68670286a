"""A deployed file, ready to be asked about pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_compress.device.answers import CLASSIFIES
from hf_compress.device.opening import OPENERS
from hf_compress.device.pictures import preprocessed
from hf_compress.ground.errors import UsageError


@dataclass(frozen=True)
class DeviceModel:
    """A deployed file, or a model that PyTorch runs.

    Attributes:
        name: its file or folder.
        task: one of `TELLING`.
        labels: in the order of the logits, where it has any.
        see: makes `pixel_values` (1, 3, height, width) of a picture, uint8 (height, width, 3).
        outputs: makes arrays of these, by name, the picture along their first dimension.
        bytes: of its file; 0 where it has none.
    """

    name: str
    task: str
    labels: list[str]
    see: Callable[[np.ndarray], np.ndarray]
    outputs: Callable[[np.ndarray], dict[str, np.ndarray]]
    bytes: int = 0

    @classmethod
    def open(cls, file: str | Path, threads: int = 1) -> DeviceModel:
        """Open a file that `deploy` or `hf-compress export` has written, beside which its JSON file must lie.

        Raises:
            UsageError: it is none, its runtime is not installed, or it does not work without PyTorch.
        """
        file = Path(file)
        row, described = _described(file)
        if "script" not in row:
            reason = row.get("no_script", "it is of an earlier version")
            raise UsageError(f"'{file}' cannot be used without PyTorch: {reason}; give its run folder instead")
        try:
            call = OPENERS[row["runtime"]](file, threads)
        except ImportError as error:
            raise UsageError(f"'{file}' needs the runtime {row['runtime']}: {error}; install it by pip") from None
        except Exception as error:  # runtimes raise whatever their parsers raise
            raise UsageError(f"'{file}' cannot be opened by {row['runtime']}: {str(error).splitlines()[0]}") from None
        return cls(
            str(file),
            described.get("task", CLASSIFIES),
            described["labels"],
            lambda picture: preprocessed(picture, described["preprocessing"]),
            lambda pixel_values: dict(zip(row["max_difference"], call(pixel_values), strict=True)),
            row["cost"]["bytes"],
        )


def _described(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the row of the report and all that lies in the JSON file beside a file."""
    beside = file.with_name(f"{file.name}.json")
    if not file.is_file() or not beside.is_file():
        missing = file if not file.is_file() else beside
        raise UsageError(f"'{missing}' is missing: give a file of `hf-compress export`, with its JSON file beside it")
    try:
        described = json.loads(beside.read_text(encoding="utf-8"))
        row = described["export"]
        complete = row["runtime"] in OPENERS and row["max_difference"] and row["cost"]["bytes"] > 0
        if complete and isinstance(described["labels"], list) and described["preprocessing"]:
            return row, described
    except (ValueError, KeyError, TypeError):
        pass
    raise UsageError(f"'{beside}' describes no model of a runtime that is known here: {', '.join(OPENERS)}")
