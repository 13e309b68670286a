"""Repair: what a pruned model gets back without a gradient step, from unlabelled images."""

from __future__ import annotations

import copy
from itertools import islice
from typing import Any

from torch import nn

from hf_compress.ground.looking import twin
from hf_compress.ground.outputs import in_rows, output_error, outputs_of
from hf_compress.ground.processor import fastest_device
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.removal import Kept
from hf_compress.steps.pruning.repair.least_squares import least_squares
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.training.batch_norms import reestimate_batch_norm
from hf_compress.training.context import Context

JUDGED = 8  # batches


def repair(
    unpruned: nn.Module,
    pruned: nn.Module,
    kept: Kept,
    calibration: Calibration,
    context: Context,
    config: PruneSection,
) -> dict[str, Any]:
    """Repair a pruned model in place as the recipe says, by training images, and return what came of it.

    Args:
        unpruned: the model before units went.
        kept: which of its indices are left.

    Returns:
        For the row of a round: `output_error_before` and `output_error_after` (mean squared difference from the
        unpruned model's outputs, relative to their variance).
    """
    if config.repairs == "none":
        return {}
    whole, trial = twin(unpruned).to(fastest_device()), copy.deepcopy(pruned).eval().to(fastest_device())
    images = list(islice(calibration.pixel_values(), JUDGED))
    expected = in_rows(outputs_of(whole, images)).double()
    before = output_error(trial, images, expected)
    if config.repairs == "batch_norm":
        reestimate_batch_norm(trial, context)
    else:
        least_squares(whole, trial, kept, calibration.pixel_values(), context.sparse_parameters)
    after = output_error(trial, images, expected)
    pruned.load_state_dict(trial.state_dict())
    return {"output_error_before": before, "output_error_after": after}
