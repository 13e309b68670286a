"""Repair: what a pruned model gets back without a gradient step."""

from __future__ import annotations

from transformers import PreTrainedModel

from hf_compress.steps.pruning.config import PruneSection
from hf_compress.training.batch_norms import reestimate_batch_norm
from hf_compress.training.context import Context


def repair(model: PreTrainedModel, context: Context, config: PruneSection) -> None:
    """Repair a pruned model in place, by unlabelled training images, as the recipe says."""
    if config.repairs == "batch_norm":
        reestimate_batch_norm(model, context)
