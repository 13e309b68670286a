"""Statistics of batch norms, computed anew."""

from __future__ import annotations

import torch
from rich.progress import track
from torch.utils.data import Subset
from transformers import PreTrainedModel

from hf_compress.data.images import batches, spread
from hf_compress.ground.memory import in_fitting_batches
from hf_compress.training.arguments import EVALUATION_BATCH
from hf_compress.training.batching import require_pairs, without_single
from hf_compress.training.context import Context


def reestimate_batch_norm(model: PreTrainedModel, context: Context, images: int = 2048) -> None:
    """Recompute the running statistics of batch norms from training images, as after the removal of channels.

    Exact averages over the batches replace the moving ones (torch.optim.swa_utils.update_bn).

    Raises:
        RunError: there is a single training image, or memory for no more.
    """
    chosen = spread(context.data.train, images)

    def update(batch_size: int) -> None:
        require_pairs(model, chosen, batch_size)
        shown = Subset(chosen, range(without_single(len(chosen), batch_size)))
        loader = batches(shown, context.processor, batch_size)
        progress = track(loader, "Re-estimating batch norms", transient=True)
        torch.optim.swa_utils.update_bn((batch["pixel_values"] for batch in progress), model)

    in_fitting_batches(update, EVALUATION_BATCH)
    model.eval()
