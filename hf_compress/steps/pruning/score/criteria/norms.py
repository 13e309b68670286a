"""Criteria of one weight at a time: its magnitudes, and chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_compress.steps.pruning.score.registry import register_importance

if TYPE_CHECKING:
    from torch import Tensor


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
