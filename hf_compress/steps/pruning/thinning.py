"""Copies of a model that are thinner or shallower from the start, and know what it knows."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from hf_compress.data.images import example_input, spread
from hf_compress.ground.errors import RunError
from hf_compress.measure.cost import count_parameters
from hf_compress.models.load import LoadedModel
from hf_compress.sections.models import StudentSection
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.blocks import BlockPruner
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.remove.pruner import Pruner
from hf_compress.steps.pruning.remove.uniform import UniformPruner
from hf_compress.steps.pruning.repair import repair
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.scoring import equal
from hf_compress.training.context import Context

ENOUGH = 0.75


def thinned(
    whole: LoadedModel, section: StudentSection, context: Context | None = None
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return a copy with the share `width` of the channels of each layer and `depth` of the residual blocks.

    Blocks go first: those without which the outputs change least. Then channels go that others can make up for
    (`obs`), within the architecture's own config where that expresses three quarters of what would go, so that the
    copy loads without this package. After either, least squares repair what is left by training images. The head
    stays.

    Args:
        whole: a copy of the teacher; stays as it is.
        context: without images that any can be chosen by, the first blocks and channels go, and nothing is repaired.

    Returns:
        The copy, and for the report `width`, `depth` and `output_error`: the mean squared difference from the
        teacher's outputs, relative to their variance.

    Raises:
        RunError: the model has nothing of the kind to lose.
    """
    image, model = example_input(whole.processor), copy.deepcopy(whole.model)
    details: dict[str, Any] = {"width": section.width, "depth": section.depth}
    for key, share, build in (("depth", section.depth, _block_pruner), ("width", section.width, _channel_pruner)):
        if share == 1:
            continue
        try:
            pruner = build(model, image, 1 - share)
        except RunError as error:
            raise RunError(f"'student.{key}' {share:g} cannot be had of {whole.name}: {error}") from None
        config, amount = pruner.config, pruner.config.amount
        if context is None:
            pruner.remove(model, equal(pruner.groups(model)), amount)
        else:
            images = spread(context.data.train, config.calibration)
            calibration = Calibration(images, whole.processor, whole.model, context.task)
            kept = pruner.remove(model, pruner.scores(model, amount, calibration), amount)
            row = repair(whole.model, model, kept, calibration, context, config)
            details["output_error"] = row["output_error_after"]
        if not pruner.sparsity(model):
            raise RunError(f"'student.{key}' {share:g} takes nothing of {whole.name}: lower it")
    return model, details


def _block_pruner(model: PreTrainedModel, image: Tensor, amount: float) -> Pruner:
    config = PruneSection(granularity="block", iterative=False, amount=amount, floor=0)
    return BlockPruner(model, image, config, set())


def _channel_pruner(model: PreTrainedModel, image: Tensor, amount: float) -> Pruner:
    """Return what prunes within the config, unless each layer by itself would lose far more parameters."""
    config = PruneSection(importance="obs", iterative=False, amount=amount, floor=0)
    free = ChannelPruner(model, image, config, set())
    try:
        uniform = UniformPruner(model, image, config.model_copy(update={"layout": "config"}), set())
        is_enough = _parameters_gone(model, uniform) >= ENOUGH * _parameters_gone(model, free)
    except RunError:
        return free
    return uniform if is_enough else free


def _parameters_gone(model: PreTrainedModel, pruner: Pruner) -> int:
    trial = copy.deepcopy(model)
    pruner.remove(trial, equal(pruner.groups(trial)), pruner.config.amount)
    return count_parameters(model) - count_parameters(trial)
