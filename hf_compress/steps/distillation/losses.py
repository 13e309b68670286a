"""Distillation losses: functions of student logits, teacher logits and labels.

Logits have the shape (batch, classes), labels (batch,) with -100 for an image without label. Each function returns
a scalar. A loss that reads the labels is registered with `needs_labels=True`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_compress.steps.distillation.config import LOSSES, LossConfig

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DistillationLoss:
    """A registered loss: `function(student_logits, teacher_logits, labels, config) -> scalar`."""

    function: Callable
    needs_labels: bool


def register_loss(name: str, needs_labels: bool = False) -> Callable:
    """Return a decorator that adds a loss under `name`."""

    def store(function: Callable) -> Callable:
        LOSSES.register(name)(DistillationLoss(function, needs_labels))
        return function

    return store


@register_loss("mse")
def mse(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """Mean squared error between the softmax outputs, over batch and classes (the founding article)."""
    from torch.nn import functional as F

    return F.mse_loss(student_logits.softmax(dim=-1), teacher_logits.softmax(dim=-1))


@register_loss("mse_ce", needs_labels=True)
def mse_ce(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """`mse_weight` times `mse` plus `ce_weight` times the cross-entropy with the labels (the founding article)."""
    from torch.nn import functional as F

    distance = mse(student_logits, teacher_logits, labels, config)
    return config.mse_weight * distance + config.ce_weight * F.cross_entropy(student_logits, labels)


@register_loss("kl")
def kl(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, config: LossConfig) -> Tensor:
    """KL divergence of the softened outputs, batch mean, times squared temperature (Hinton et al., 2015, sec. 2)."""
    from torch.nn import functional as F

    student = (student_logits / config.temperature).log_softmax(dim=-1)
    teacher = (teacher_logits / config.temperature).log_softmax(dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * config.temperature**2
