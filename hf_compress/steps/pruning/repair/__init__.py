"""Repair: what a pruned model gets back without a gradient step, from unlabelled images."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from torch import nn
from torch.utils.data import Subset

from hf_compress.data.images import evenly_spread
from hf_compress.ground.choices import Choices
from hf_compress.ground.looking import twin
from hf_compress.ground.outputs import in_rows, output_error, outputs_of
from hf_compress.ground.processor import fastest_device
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.removal import Kept
from hf_compress.steps.pruning.repair.least_squares import least_squares
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.training.batch_norms import has_batch_norms, reestimate_batch_norm
from hf_compress.training.context import Context

HELD_OUT = 8  # one image of so many
MOST_HELD_OUT = 128


def repair(
    unpruned: nn.Module,
    pruned: nn.Module,
    kept: Kept,
    calibration: Calibration,
    context: Context,
    config: PruneSection,
) -> dict[str, Any]:
    """Repair a pruned model in place as the recipe says, by training images, and return what came of it.

    Least squares stay where they bring the outputs of images that they did not see nearer to the unpruned model's, and
    so do new statistics of batch norms after them. `batch_norm` alone is done whatever comes of it.

    Args:
        unpruned: the model before units went.
        kept: which of its indices are left.

    Returns:
        For the row of a round: `repaired` (what stayed: `least_squares`, `batch_norm`), `output_error_before` and
        `output_error_after` (mean squared difference from the unpruned model's outputs, relative to their variance),
        and `unrepaired_layers` with the reasons, where least squares pass over some.
    """
    if config.repair == "none":
        return {}
    fitted, judged = _parted(calibration)
    whole, best = twin(unpruned).to(fastest_device()), copy.deepcopy(pruned).eval().to(fastest_device())
    images = list(judged.pixel_values())
    choices = Choices()
    with choices.recorded():
        expected = in_rows(outputs_of(whole, images)).double()
    with choices.repeated():
        before = after = output_error(best, images, expected)
    repaired: list[str] = []
    passed_over: dict[str, str] = {}

    def solve(trial: nn.Module) -> None:
        passed_over.update(least_squares(whole, trial, kept, fitted.pixel_values(), context.sparse_parameters))

    changes = {"least_squares": solve} if config.repair == "least_squares" else {}
    if has_batch_norms(pruned):
        changes["batch_norm"] = lambda trial: reestimate_batch_norm(trial, context)
    for name, change in changes.items():
        trial = copy.deepcopy(best)
        change(trial)
        with choices.repeated():
            error = output_error(trial, images, expected)
        if error < after or config.repair == "batch_norm":
            best, after = trial, error
            repaired.append(name)
    pruned.load_state_dict(best.state_dict())
    context.log(
        f"repair: {' and '.join(repaired) or 'nothing helps'}; outputs are off by {before:.1%} of their "
        f"variance before and {after:.1%} after, on {len(judged.images)} images"
    )
    row = {"repaired": repaired, "output_error_before": before, "output_error_after": after}
    return row | ({"unrepaired_layers": passed_over} if passed_over else {})


def _parted(calibration: Calibration) -> tuple[Calibration, Calibration]:
    """Return the images to solve by, and those to judge by: of fewer than eight, all are both."""
    total = len(calibration.images)
    judged = evenly_spread(total, min(total // HELD_OUT, MOST_HELD_OUT))
    if not judged:
        return calibration, calibration
    others = sorted(set(range(total)) - set(judged))
    return tuple(replace(calibration, images=Subset(calibration.images, part)) for part in (others, judged))
