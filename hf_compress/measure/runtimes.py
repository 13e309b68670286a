"""Models prepared for the runtimes in which latency is measured."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

Prepared = Callable[[Tensor], Any]


def eager(model: PreTrainedModel, image: Tensor, threads: int) -> Prepared:
    return lambda batch: model(pixel_values=batch)


def compiled(model: PreTrainedModel, image: Tensor, threads: int) -> Prepared:
    """`torch.compile`, one graph a batch size."""
    torch._dynamo.config.recompile_limit = 64  # models of one class share it; beyond it they silently run eagerly
    graph = torch.compile(model, dynamic=False)
    return lambda batch: graph(pixel_values=batch)


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
    "compile": compiled,
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
