"""The interface of a runtime, and what it is given to export."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hf_compress.errors import UsageError
from hf_compress.registry import Registry

INPUT, OUTPUT = "pixel_values", "logits"
Call = Callable[[Tensor], Tensor]


class Logits(nn.Module):
    """A model as exporters want it: one tensor in, one tensor out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values=pixel_values).logits


@dataclass
class Exportable:
    """A model ready for export.

    Attributes:
        module: takes `pixel_values` (batch, 3, height, width), returns logits (batch, classes); in eval mode.
        image: one input, shape (1, 3, height, width).
        labels: class names in the order of the logits.
        preprocessing: the image processor's own description, as in `preprocessor_config.json`.
        calibration: images for int8, each of shape (1, 3, height, width); empty for float32.
    """

    module: nn.Module
    image: Tensor
    labels: list[str]
    preprocessing: dict[str, Any]
    calibration: list[Tensor]

    def program(self, dynamic_batch: bool) -> torch.export.ExportedProgram:
        """Return the model as a graph.

        Args:
            dynamic_batch: the graph takes batches of any size; otherwise of one image.
        """
        batch = self.image.repeat(2, 1, 1, 1) if dynamic_batch else self.image
        shapes = {INPUT: {0: torch.export.Dim.DYNAMIC}} if dynamic_batch else None
        with torch.no_grad():
            return torch.export.export(self.module, (batch,), dynamic_shapes=shapes)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What a program needs beside the weights, as text."""
        return {"labels": json.dumps(self.labels), "preprocessing": json.dumps(self.preprocessing)}


class Runtime(ABC):
    """Writes a model for one runtime, and runs what was written.

    Attributes:
        suffix: of the file.
        package: module that must be importable.
        extra: the extra of hf-compress that installs it; None when nothing is to be installed.
        int8: whether static int8 quantisation is offered.
        batches: whether the exported model takes batches of any size.
    """

    suffix: ClassVar[str]
    package: ClassVar[str] = "torch"
    extra: ClassVar[str | None] = None
    int8: ClassVar[bool] = False
    batches: ClassVar[bool] = True

    @abstractmethod
    def write(self, model: Exportable, file: Path) -> None:
        """Write `model` to `file`; in int8 where it brings calibration images."""

    @abstractmethod
    def load(self, file: Path, threads: int) -> Call:
        """Return a function that runs the file on the CPU: pixel values in, logits out."""

    def files(self, file: Path) -> list[Path]:
        """Return all files that belong to an export."""
        return [file]


RUNTIMES: Registry[type[Runtime]] = Registry("runtime", "hf_compress.runtimes")
register_runtime = RUNTIMES.register


def runtime(name: str) -> Runtime:
    """Return the runtime called `name`, ready to use.

    Raises:
        UsageError: there is none, or what it needs is not installed.
    """
    kind = RUNTIMES.get(name)
    try:
        importlib.import_module(kind.package)
    except ImportError as error:
        raise UsageError(f"{name} needs {kind.package} ({error}): pip install 'hf-compress[{kind.extra}]'") from None
    return kind()
