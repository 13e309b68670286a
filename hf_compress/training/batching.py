"""Training batches never hold one image alone: a batch norm cannot learn from it."""

from __future__ import annotations

from collections.abc import Sized

from torch import nn

from hf_compress.ground.errors import RunError


def without_single(images: int, batch_size: int) -> int:
    """Return how many of `images` fill batches of `batch_size`: one that would be the last batch alone is left out."""
    return images - 1 if images > 1 and batch_size > 1 and images % batch_size == 1 else images


def has_batch_norms(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def require_pairs(model: nn.Module, images: Sized, batch_size: int) -> None:
    """Raise `RunError` where batch norms would learn from one image at a time."""
    if min(len(images), batch_size) > 1 or not has_batch_norms(model):
        return
    advice = (
        "give it more training images"
        if len(images) == 1
        else "set 'batch_size' to 2 or more, and where memory has no room for that, use smaller images"
    )
    raise RunError(f"{type(model).__name__} has batch norms, which cannot learn from a single image: {advice}")
