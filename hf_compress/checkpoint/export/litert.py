"""LiteRT (TensorFlow Lite) files, for phones."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hf_compress.checkpoint.export.base import INPUT, Call, Exportable, Runtime, register_runtime


@register_runtime("litert")
class LiteRt(Runtime):
    """A `.tflite` for one image at a time; labels and preprocessing lie in the JSON beside it."""

    suffix = ".tflite"
    package = "litert_torch"
    extra = "litert"
    batches = False

    def write(self, model: Exportable, file: Path) -> None:
        import litert_torch

        litert_torch.convert(model.module, sample_kwargs={INPUT: model.image}).export(str(file))

    def load(self, file: Path, threads: int) -> Call:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(file), num_threads=threads)
        run = interpreter.get_signature_runner()

        def call(pixel_values: Tensor) -> Tensor:
            (logits,) = run(**{INPUT: pixel_values.contiguous().numpy()}).values()
            return torch.from_numpy(logits)

        return call
