"""Repair: what a pruned model gets back without a gradient step, from unlabelled images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

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

Change = Callable[[nn.Module, nn.Module], None]


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
    fitted, judged = (replace(calibration, images=part) for part in halves(calibration.images, mixed=True))
    passed_over: dict[str, str] = {}

    def solve(whole: nn.Module, trial: nn.Module) -> None:
        passed_over.update(least_squares(whole, trial, kept, fitted.pixel_values(), context.sparse_parameters))

    changes: dict[str, Change] = {"least_squares": solve} if config.repair == "least_squares" else {}
    if has_batch_norms(pruned):
        changes["batch_norm"] = lambda whole, trial: reestimate_batch_norm(trial, context)
    sure = changes.keys() & {config.repair} - {"least_squares"}
    row = improve(unpruned, pruned, list(judged.pixel_values()), changes, sure)
    context.log(
        f"repair: {' and '.join(row['repaired']) or 'nothing helps'}; outputs are off by "
        f"{row['output_error_before']:.1%} of their variance before and {row['output_error_after']:.1%} after, "
        f"on {len(judged.images)} images"
    )
    return row | ({"unrepaired_layers": passed_over} if passed_over else {})


def improve(
    unpruned: nn.Module,
    pruned: nn.Module,
    images: list[Tensor],
    changes: dict[str, Change],
    sure: Collection[str] = (),
) -> dict[str, Any]:
    """Try changes of a pruned model in turn, and keep in place those that bring its outputs nearer to the unpruned's.

    Args:
        images: batches of shape (batch, 3, height, width) that no change has seen.
        changes: by name, each a function of the unpruned model and of a copy that it changes.
        sure: changes that stay whatever comes of them.

    Returns:
        `repaired`, `output_error_before` and `output_error_after`: see `repair`.
    """
    whole, best = twin(unpruned).to(fastest_device()), copy.deepcopy(pruned).eval().to(fastest_device())
    choices = Choices()
    with choices.recorded():
        expected = in_rows(outputs_of(whole, images)).double()
    with choices.repeated():
        before = after = output_error(best, images, expected)
    repaired: list[str] = []
    for name, change in changes.items():
        trial = copy.deepcopy(best)
        change(whole, trial)
        with choices.repeated():
            error = output_error(trial, images, expected)
        if error < after or name in sure:
            best, after = trial, error
            repaired.append(name)
    pruned.load_state_dict(best.state_dict())
    return {"repaired": repaired, "output_error_before": before, "output_error_after": after}


def halves(images: Dataset, mixed: bool = False) -> tuple[Dataset, Dataset]:
    """Return the images to solve by, and those to judge by: of fewer than eight, all are both.

    Args:
        mixed: whether the first images are as good as any, see `data.images.spread`.
    """
    total = len(images)
    count = min(total // HELD_OUT, MOST_HELD_OUT)
    judged = list(range(count)) if mixed else evenly_spread(total, count)
    if not judged:
        return images, images
    others = sorted(set(range(total)) - set(judged))
    return Subset(images, others), Subset(images, judged)
