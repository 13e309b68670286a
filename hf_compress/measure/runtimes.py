"""Models prepared for the runtimes in which latency is measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from hf_compress.ground.processor import compiled
from hf_compress.models.exporting import exportable
from hf_compress.runtimes import runtime

Prepared = Callable[[Tensor], Any]


def eager(model: PreTrainedModel, image: Tensor, threads: int) -> Prepared:
    return lambda batch: model(pixel_values=batch)


def compile(model: PreTrainedModel, image: Tensor, threads: int) -> Prepared:
    return eager(compiled(model), image, threads)


def onnxruntime(model: PreTrainedModel, image: Tensor, threads: int) -> Prepared:
    """The export of `hf-compress export --to onnx`, in memory only."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        runtime("onnx").write(exportable(model, image), file)
        return runtime("onnx").load(file, threads)


PREPARE: dict[str, Callable[[PreTrainedModel, Tensor, int], Prepared]] = {
    "eager": eager,
    "compile": compile,
    "onnxruntime": onnxruntime,
}
