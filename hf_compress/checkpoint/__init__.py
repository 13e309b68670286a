"""Checkpoints that `from_pretrained` reloads: safetensors, and the changed shapes in `config.json`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, PreTrainedModel


def save(model: PreTrainedModel, folder: str | Path, processor: BaseImageProcessor | None = None) -> None:
    """Write a model in Hub form.

    The folder reloads with `AutoModelForImageClassification.from_pretrained`; where channels were removed,
    `import hf_compress` must come first.

    Args:
        model: any transformers model, channels removed or not.
        folder: made when missing.
        processor: image processor to write beside it.
    """
    from hf_compress.checkpoint.quantizer import attach_shapes

    attach_shapes(model)
    model.save_pretrained(folder)
    if processor is not None:
        processor.save_pretrained(folder)
