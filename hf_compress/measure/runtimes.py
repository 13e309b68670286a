"""Models prepared for the runtimes in which latency is measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from hf_compress.compiling import compiled

Prepared = Callable[[Tensor], Any]


def eager(model: PreTrainedModel, image: Tensor, threads: int) -> Prepared:
    return lambda batch: model(pixel_values=batch)


def compile(model: PreTrainedModel, image: Tensor, threads: int) -> Prepared:
    return eager(compiled(model), image, threads)


def onnxruntime(model: PreTrainedModel, image: Tensor, threads: int) -> Prepared:
    """The export of `hf-compress export --to onnx`, in memory only."""
    from hf_compress.checkpoint.export.base import Exportable, Logits, runtime
    from hf_compress.checkpoint.export.folding import fold_batch_norms

    onnx = runtime("onnx")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        onnx.write(Exportable(Logits(fold_batch_norms(model, image)).eval(), image, [], {}, []), file)
        return onnx.load(file, threads)


PREPARE: dict[str, Callable[[PreTrainedModel, Tensor, int], Prepared]] = {
    "eager": eager,
    "compile": compile,
    "onnxruntime": onnxruntime,
}


def require(runtimes: list[str]) -> None:
    """Fail before a run, not after it.

    Raises:
        UsageError: a runtime is not installed; says what to install.
    """
    if "onnxruntime" in runtimes:
        from hf_compress.checkpoint.export import base

        base.runtime("onnx")
