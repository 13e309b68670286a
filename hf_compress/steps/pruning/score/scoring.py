"""The scores of all groups of a model."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hf_compress.ground.errors import RunError, UsageError
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.criteria import CRITERIA
from hf_compress.steps.pruning.score.damage import by_damage
from hf_compress.steps.pruning.tracing.groups import Group, is_layer_weight

Scores = dict[str, Tensor]


def score(
    model: nn.Module, groups: list[Group], config: PruneSection, calibration: Calibration | None = None
) -> Scores:
    """Return the importance of the units of every group, shape (units,), by the group's name.

    Args:
        model: stays as it is.
        groups: of this model, or of one with the same shapes.
        config: names the criterion.
        calibration: None where there are no images.

    Raises:
        UsageError: the criterion needs images, and there are none.
        RunError: its scores cannot be ranked.
    """
    criterion = CRITERIA.get(config.importance)
    if calibration is None:
        require_weights_suffice(config)
    if criterion.needs_images:
        scores = criterion.function(model, groups, calibration)
    else:
        scores = {group.name: _of_weights(criterion.function, model, group, config.n) for group in groups}
    for group in groups:
        _require_ranks(scores[group.name], group, config.importance)
    return by_damage(model, groups, scores, calibration) if config.scope == "damage" else scores


def require_weights_suffice(config: PruneSection) -> None:
    """Raise `UsageError` where a criterion or a scope needs images, for whoever has none."""
    if config.scope == "damage":
        raise UsageError(
            "scope 'damage' needs calibration images, and only the step 'prune' of a recipe, or `hf-compress "
            "sensitivity`, has some: use scope 'layer', 'global' or 'cost' here"
        )
    if CRITERIA.get(importance := config.importance).needs_images:
        others = ", ".join(name for name in CRITERIA if not CRITERIA.get(name).needs_images)
        raise UsageError(
            f"importance '{importance}' needs calibration images, which the step 'prune' of a recipe and `hf-compress "
            f"sensitivity` have, and hf_compress.prune by its argument: use one of {others} here"
        )


def equal(groups: list[Group]) -> Scores:
    """Return the same score for all units: where it matters how many go, and not which."""
    return {group.name: torch.zeros(group.units) for group in groups}


def _of_weights(function: Callable[..., Tensor], model: nn.Module, group: Group, n: float) -> Tensor:
    """Return the mean score of each unit over the filters that make it and the kernels that read it."""
    total, count = 0, 0
    for member in group.members:
        if not is_layer_weight(model.get_submodule(member.axis.module), member.axis):
            continue
        scores = function(member.tensor(model).detach(), member.dim, n)
        if member.indices is None:
            return scores.flatten()
        scores = scores[torch.from_numpy(member.indices)]
        total = total + scores.sum(dim=1)
        count += scores.shape[1]
    return total / count


def _require_ranks(scores: Tensor, group: Group, criterion: str) -> None:
    if scores.shape != (group.units,):
        raise RunError(
            f"importance '{criterion}' gives scores of shape {tuple(scores.shape)} for the {group.units} units of "
            f"'{group.name}': it must give one a unit"
        )
    bad = [extreme.item() for extreme in scores.detach().aminmax() if not math.isfinite(extreme)]
    if bad:
        raise RunError(
            f"importance '{criterion}' gives the score {bad[0]} in '{group.name}': scores are finite numbers, so the "
            "criterion or the weights of that layer are damaged"
        )
