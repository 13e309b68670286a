"""Training after pruning, at a rate that leaves the model what it still has."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn

from hf_compress.data.images import spread
from hf_compress.ground import processes
from hf_compress.ground.choices import Choices
from hf_compress.ground.looking import twin
from hf_compress.ground.outputs import error_by_variance, in_rows, output_error, outputs_of
from hf_compress.ground.processor import fastest_device
from hf_compress.models.load import LoadedModel
from hf_compress.steps.pruning.config import RecoveryConfig
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.training.context import Context
from hf_compress.training.fitting import train

IMAGES = 64
SLOWEST, FASTEST = 1e-5, 1e-3  # with the slowest, outputs move in proportion to the rate
BEARABLE = 2e-4


def recover(model: nn.Module, context: Context, config: RecoveryConfig, unpruned: LoadedModel) -> dict[str, Any]:
    """Train a pruned model in place, and return what the row of the round says of it."""
    if config.learning_rate is None:
        images = spread(context.data.train, IMAGES)
        calibration = Calibration(images, context.processor, unpruned.model, context.task)
        rate = processes.on_main(lambda: bearable_rate(model, calibration, context.sparse_parameters))
        context.log(f"recovery: learning rate {rate:g}, as much as the model bears")
        config = config.model_copy(update={"learning_rate": rate})
    details = train(model, context, config, teacher=None if config.labels_only else unpruned)
    return {"learning_rate": config.learning_rate} | details


def bearable_rate(model: nn.Module, calibration: Calibration, sparse: frozenset[str] = frozenset()) -> float:
    """Return the learning rate of Adam with which a step in a random direction leaves the outputs nearly as they are.

    A step of Adam moves each weight by about the learning rate. Moved so in random directions, the outputs may change
    by 0.02 % of their variance. A model whose outputs are off from the unpruned model's by all of their variance has
    nothing to lose.

    Args:
        calibration: its images, of which 64 are used, of large pictures fewer; and the unpruned model.
        sparse: names of the parameters whose zeros stay.

    Returns:
        From 1e-5 to 1e-3, rounded to two digits.
    """
    device = fastest_device()
    images = list(calibration.first(IMAGES).pixel_values())
    unpruned, pruned = twin(calibration.unpruned).to(device), copy.deepcopy(model).eval().to(device)
    choices = Choices()
    with choices.recorded():
        expected = in_rows(outputs_of(unpruned, images)).double()
    with choices.repeated():
        given = in_rows(outputs_of(pruned, images)).double()
    if not error_by_variance(given, expected) < 1:
        return FASTEST
    _step_at_random(pruned, SLOWEST, sparse)
    with choices.repeated():
        change = output_error(pruned, images, given)
    rate = SLOWEST * math.sqrt(BEARABLE / max(change, 1e-30))
    return float(f"{min(FASTEST, max(SLOWEST, rate)):.1e}")


@torch.no_grad()
def _step_at_random(model: nn.Module, rate: float, sparse: frozenset[str]) -> None:
    random = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        signs = torch.randint(0, 2, parameter.shape, generator=random).mul(2).sub(1).to(parameter)
        parameter.add_(signs * (parameter != 0) if name in sparse else signs, alpha=rate)
