"""Batch norms: they cannot learn from a batch of one image, and after a change of the model they count anew."""

from collections.abc import Sized
from contextlib import AbstractContextManager

import torch
from torch import nn
from torch.utils.data import Subset
from transformers import PreTrainedModel

from hf_compress.data.images import batches, fitting_batch, spread
from hf_compress.ground.errors import RunError
from hf_compress.ground.looking import kept_in_eval
from hf_compress.ground.memory import in_fitting_batches
from hf_compress.ground.progress import track
from hf_compress.training.arguments import EVALUATION_BATCH
from hf_compress.training.context import Context

BATCH_NORM = nn.modules.batchnorm._BatchNorm


def reestimate_batch_norm(model: PreTrainedModel, context: Context, images: int = 2048) -> None:
    """Recompute the running statistics of batch norms from training images, as after the removal of channels.

    Exact averages over the batches replace the moving ones (torch.optim.swa_utils.update_bn).

    Raises:
        RunError: there is a single training image, or memory for no more.
    """
    chosen = spread(context.data.train, images)
    device = next(model.parameters()).device

    def update(batch_size: int) -> None:
        require_pairs(model, chosen, batch_size)
        shown = Subset(chosen, range(without_single(len(chosen), batch_size)))
        loader = batches(shown, context.processor, batch_size)
        progress = track(loader, "Re-estimating batch norms")
        torch.optim.swa_utils.update_bn((batch["pixel_values"] for batch in progress), model, device)

    in_fitting_batches(update, max(2, fitting_batch(context.processor, EVALUATION_BATCH)))
    model.eval()


def frozen_statistics(model: nn.Module) -> AbstractContextManager[None]:
    """Let batch norms use their running statistics and leave them alone in a `with` block, in training mode, too."""
    return kept_in_eval(module for module in model.modules() if isinstance(module, BATCH_NORM))


def without_single(images: int, batch_size: int) -> int:
    """Return how many of `images` fill batches of `batch_size`: one that would be the last batch alone is left out."""
    return images - 1 if images > 1 and batch_size > 1 and images % batch_size == 1 else images


def has_batch_norms(model: nn.Module) -> bool:
    return any(isinstance(module, BATCH_NORM) for module in model.modules())


def require_pairs(model: nn.Module, images: Sized, batch_size: int, frozen: bool = False) -> None:
    """Raise `RunError` where batch norms would learn from one image at a time; `frozen` ones do not."""
    if frozen or min(len(images), batch_size) > 1 or not has_batch_norms(model):
        return
    advice = (
        "give it more training images"
        if len(images) == 1
        else "set 'batch_size' to 2 or more, and where memory has no room for that, use smaller images"
    )
    raise RunError(f"{type(model).__name__} has batch norms, which cannot learn from a single image: {advice}")
