"""The interface of a runtime, and what it is given to write. Neither torch nor any runtime is imported for it."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hf_compress.ground.errors import UsageError
from hf_compress.ground.registry import Registry

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

INPUT = "pixel_values"
Call = Callable[["np.ndarray"], Sequence["np.ndarray"]]


@dataclass(frozen=True)
class Exportable:
    """A model ready for export; `models.exporting.exportable` makes one.

    Attributes:
        module: takes `pixel_values` (batch, 3, height, width), returns a tensor, or a tuple of several; in eval mode.
        outputs: names of these tensors.
        image: one input, shape (1, 3, height, width).
        metadata: what a program needs beside the weights, as text: `labels` and `preprocessing`, each JSON.
        calibration: images for int8, each of shape (1, 3, height, width); empty for float32.
    """

    module: nn.Module
    outputs: list[str]
    image: Tensor
    metadata: dict[str, str] = field(default_factory=dict)
    calibration: Sequence[Tensor] = ()

    def call(self, pixel_values: np.ndarray) -> list[np.ndarray]:
        """Return what the model says in PyTorch: all outputs, in the order of `outputs`."""
        import torch

        with torch.no_grad():
            made = self.module(torch.from_numpy(pixel_values))
        return [tensor.numpy() for tensor in (made if isinstance(made, tuple) else [made])]

    def program(self, dynamic_batch: bool) -> torch.export.ExportedProgram:
        """Return the model as a graph, without the paths of the code that it came from.

        Args:
            dynamic_batch: the graph takes batches of any size; otherwise of one image.
        """
        import torch

        batch = self.image.repeat(2, 1, 1, 1) if dynamic_batch else self.image
        shapes = {INPUT: {0: torch.export.Dim.DYNAMIC}} if dynamic_batch else None
        with torch.no_grad():
            try:
                program = torch.export.export(self.module, (batch,), dynamic_shapes=shapes)
            except torch._dynamo.exc.UserError:  # code that asks for the `len` of a batch gets a number, unless traced
                program = torch.export.export(self.module, (batch,), dynamic_shapes=shapes, strict=True)
        for part in program.graph_module.modules():
            for node in part.graph.nodes if isinstance(part, torch.fx.GraphModule) else ():
                node.meta.pop("stack_trace", None)
        return program


class Runtime(ABC):
    """Writes a model for one runtime, and runs what was written.

    Attributes:
        suffix: of the file.
        package: module that must be importable.
        extra: the extra of hf-compress that installs it; None when it comes with hf-compress.
        int8: whether static int8 quantisation is offered.
        no_int8: why it is not, for the error.
        only_on: the machine that runs its files, where hf-compress runs none: they are written and looked into.
        batches: whether the exported model takes batches of any size.
    """

    suffix: ClassVar[str]
    package: ClassVar[str] = "torch"
    extra: ClassVar[str | None] = None
    int8: ClassVar[bool] = False
    no_int8: ClassVar[str] = ""
    only_on: ClassVar[str] = ""
    batches: ClassVar[bool] = True

    @abstractmethod
    def write(self, model: Exportable, file: Path) -> dict[str, Any] | None:
        """Write `model` to `file`; in int8 where it brings calibration images.

        Returns:
            What the report's row tells of it beside what is measured; with `only_on` also `structure`, words on what
            was found in the file.
        """

    @abstractmethod
    def load(self, file: Path, threads: int) -> Call:
        """Return a function that runs the file on the CPU: pixel values in, all outputs in order out, as arrays."""

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
        wanted = f"'hf-compress[{kind.extra}]'" if kind.extra else kind.package
        raise UsageError(f"{name} needs {kind.package} ({error}): pip install {wanted}") from None
    return kind()
