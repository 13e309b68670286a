"""Importance criteria: functions that score weights, or slices of a weight. The lowest scores are pruned first.

Each takes `weight` (any shape), `dim` and the order `n`. With `dim=None` it returns one score an element, in the
weight's shape; otherwise one score a slice along `dim`, of shape (weight.shape[dim],).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hf_compress.errors import RunError
from hf_compress.steps.pruning.config import CRITERIA

if TYPE_CHECKING:
    from torch import Tensor

register_importance = CRITERIA.register


def require_finite(scores: Tensor, criterion: str, layer: str) -> None:
    """Raise `RunError` where scores cannot be ranked."""
    bad = [extreme.item() for extreme in scores.aminmax() if not math.isfinite(extreme)]
    if bad:
        raise RunError(
            f"importance '{criterion}' gives the score {bad[0]} in '{layer}': scores are finite numbers, so the "
            "criterion or the weights of that layer are damaged"
        )


def _norm(weight: Tensor, dim: int | None, n: float) -> Tensor:
    if dim is None:
        return weight.abs()

    import torch

    return torch.linalg.vector_norm(weight, n, [other for other in range(weight.dim()) if other != dim])


@register_importance("l1")
def l1(weight: Tensor, dim: int | None, n: float) -> Tensor:
    """Sum of magnitudes (Li et al., 2017, "Pruning Filters for Efficient ConvNets")."""
    return _norm(weight, dim, 1)


@register_importance("l2")
def l2(weight: Tensor, dim: int | None, n: float) -> Tensor:
    """Euclidean norm."""
    return _norm(weight, dim, 2)


@register_importance("ln")
def ln(weight: Tensor, dim: int | None, n: float) -> Tensor:
    """Norm of order `n`, as `torch.nn.utils.prune.LnStructured`."""
    return _norm(weight, dim, n)


@register_importance("random")
def random(weight: Tensor, dim: int | None, n: float) -> Tensor:
    """Uniform scores from torch's generator: the control that every criterion must beat."""
    import torch

    return torch.rand(weight.shape if dim is None else weight.shape[dim], device=weight.device)
