"""The run folder: a Hub repository with the model, its recipe and its report."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_compress.errors import UsageError

if TYPE_CHECKING:
    from hf_compress.hub.publish import Publication

REPORT = "report.json"
RECIPE = "recipe.yaml"
NUMBERS = re.compile(r"\[\n[-+.\deE,nul\s]*\]")


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
            UsageError: it is none.
        """
        path = Path(folder) / REPORT
        if not path.is_file():
            raise UsageError(f"'{folder}' is not a run folder: it has no {REPORT}")
        return cls(Path(folder), json.loads(path.read_text(encoding="utf-8")))

    def publish(self, to: str, **options: Any) -> Publication:
        """Publish the folder on the Hub as one commit; see `hf_compress.publish`."""
        from hf_compress.hub.publish import publish

        return publish(self.folder, to, **options)


class RunFolder:
    """Collects a run's files beside their destination, and moves them there when all are whole.

    Args:
        destination: the folder to make.
        overwrite: replace an earlier run folder.

    Raises:
        UsageError: the destination holds something else, or an earlier run without `overwrite`.
    """

    def __init__(self, destination: str | Path, overwrite: bool):
        self.destination = Path(destination).expanduser()
        self.partial = self.destination.with_name(self.destination.name + ".partial")
        if self.destination.exists() and (not self.destination.is_dir() or any(self.destination.iterdir())):
            if not (self.destination / REPORT).is_file():
                raise UsageError(f"output '{destination}' exists and is not a run folder: choose another --output")
            if not overwrite:
                raise UsageError(f"output '{destination}' holds an earlier run: pass --overwrite to replace it")
        try:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.files.mkdir(parents=True)
        except OSError as error:
            raise UsageError(f"output '{destination}' cannot be written: {error.strerror}") from None

    @property
    def files(self) -> Path:
        return self.partial / "files"

    @property
    def work(self) -> Path:
        return self.partial / "work"

    def step(self, number: int, name: str) -> Path:
        """Return the folder in which the model after a step is kept until the run is finished."""
        return self.partial / f"step-{number}-{name}"

    def write(self, recipe: str, report: dict[str, Any]) -> None:
        (self.files / RECIPE).write_text(recipe, encoding="utf-8")
        (self.files / REPORT).write_text(report_text(report), encoding="utf-8")

    def finish(self) -> Path:
        """Put the files into their place and remove everything else."""
        if self.destination.exists():
            shutil.rmtree(self.destination)
        os.replace(self.files, self.destination)
        shutil.rmtree(self.partial)
        return self.destination


def report_text(report: dict[str, Any]) -> str:
    """Return the report as JSON, a list of numbers on one line."""
    text = json.dumps(report, indent=2, allow_nan=False)
    return (
        NUMBERS.sub(lambda match: " ".join(match.group().split()).replace("[ ", "[").replace(" ]", "]"), text) + "\n"
    )


def environment() -> dict[str, Any]:
    """Return versions and hardware, for the report."""
    import torch

    from hf_compress import __version__
    from hf_compress.measure.latency import device_name

    packages = ("torch", "torchvision", "transformers", "torch-pruning", "datasets", "accelerate", "timm")
    return {
        "hf-compress": __version__,
        **{name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "processor": device_name(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
