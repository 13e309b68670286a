"""Batch norms that were folded into convolutions, made trainable again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_compress.data import ImageData
from hf_compress.data.images import batches, spread
from hf_compress.models.load import LoadedModel

STATISTICS_IMAGES, STATISTICS_BATCH = 256, 32


def unfold_batch_norms(loaded: LoadedModel, data: ImageData) -> bool:
    """Give the batch norms of a checkpoint that came with folded ones real statistics, without changing its logits.

    Mobile checkpoints are often published with batch norms folded into the convolutions: means are 0, and variances
    1 or 1 - eps. Trained or re-estimated, such a model normalises with the true statistics for the first time and
    forgets what it knew. Here means and variances become those of training images, and scale and shift undo what that
    changes, in place.

    Returns:
        Whether the batch norms were folded; nothing is changed where they were not.
    """
    norms = [module for module in loaded.model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms or not all(_is_folded(norm) for norm in norms):
        return False
    moments: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms}

    def record(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0].double()
        moments[norm].append(torch.stack([x.mean(dim=(0, 2, 3)), x.square().mean(dim=(0, 2, 3))]))

    hooks = [norm.register_forward_pre_hook(record) for norm in norms]
    with torch.no_grad():
        for batch in batches(spread(data.train, STATISTICS_IMAGES), loaded.processor, STATISTICS_BATCH):
            loaded.model.eval()(pixel_values=batch["pixel_values"])
    for hook in hooks:
        hook.remove()
    for norm in norms:
        mean, square = torch.stack(moments[norm]).mean(dim=0)
        variance = square - mean.square()
        with torch.no_grad():  # y = weight (x - mean) / sqrt(variance + eps) + bias stays what it was
            slope = norm.weight / (norm.running_var + norm.eps).sqrt()
            norm.bias += slope * (mean - norm.running_mean)
            norm.weight.copy_(slope * (variance + norm.eps).sqrt())
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
    return True


def _is_folded(norm: nn.BatchNorm2d) -> bool:
    """Means are 0 and variances 1, or 1 - eps, which makes the divisor exactly 1."""
    neutral = (norm.running_mean == 0).all() and ((norm.running_var - 1).abs() <= 1.01 * norm.eps).all()
    return norm.affine and bool(neutral)
