"""Distillation losses: functions of student logits, teacher logits and labels.

Logits have the shape (batch, classes), labels (batch,) with -100 for an image without label, which is left out
wherever labels are read. Of mixed pictures, labels are the share of each class, (batch, classes); that of a missing
label is left out. Each function returns a scalar. A loss that reads the labels is registered with `needs_labels=True`.
Losses that compare layers are in `layers`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_compress.sections.distillation import LOSSES, LossOptions

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1e-8  # beside the variance of logits, which are all the same where a head begins with zeros


@dataclass(frozen=True)
class DistillationLoss:
    """A registered loss.

    Attributes:
        function: `function(student_logits, teacher_logits, labels, options) -> scalar`; with `compares_layers`,
            `function(student_map, teacher_map, options) -> scalar`, called for each pair of layers.
        needs_labels: whether it reads the labels.
        compares_layers: whether it compares feature maps instead of logits.
        projects: whether the student's map gets the teacher's number of channels first, where they differ, by a 1x1
            convolution that is trained with the student.
        mixed_labels: whether it knows labels that are shares of classes.
        standardizes: whether it has logits standardised where the options say so; see `standardized`.
    """

    function: Callable
    needs_labels: bool = False
    compares_layers: bool = False
    projects: bool = False
    mixed_labels: bool = False
    standardizes: bool = False


def register_loss(name: str, **facts: bool) -> Callable:
    """Return a decorator that adds a loss under `name`; see `DistillationLoss`."""

    def store(function: Callable) -> Callable:
        LOSSES.register(name)(DistillationLoss(function, **facts))
        return function

    return store


def standardized(student_logits: Tensor, teacher_logits: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    """Return both logits, with `standardize` each row with mean 0 and deviation 1 (Sun et al., 2024, alg. 1)."""
    from torch.nn import functional as F

    if not options.standardize:
        return student_logits, teacher_logits
    classes = student_logits.shape[-1:]
    return F.layer_norm(student_logits, classes, eps=EPSILON), F.layer_norm(teacher_logits, classes, eps=EPSILON)


@register_loss("mse", standardizes=True)
def mse(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, options: LossOptions) -> Tensor:
    """Mean squared error between the softmax outputs, over batch and classes (the founding article)."""
    from torch.nn import functional as F

    student_logits, teacher_logits = standardized(student_logits, teacher_logits, options)
    return F.mse_loss(student_logits.softmax(dim=-1), teacher_logits.softmax(dim=-1))


@register_loss("ce", needs_labels=True, mixed_labels=True)
def ce(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, options: LossOptions) -> Tensor:
    """Cross-entropy with the labels, mean over the labelled images of the batch; 0 where there is none.

    That of a mixed picture is the sum of its classes' by their shares (Zhang et al., 2018, sec. 2).
    """
    from torch.nn import functional as F

    from hf_compress.data.images import IGNORED_LABEL

    total = F.cross_entropy(student_logits, labels, ignore_index=IGNORED_LABEL, reduction="sum")
    known = labels != IGNORED_LABEL if labels.dim() == 1 else labels.any(dim=1)
    return total / known.sum().clamp(min=1)


@register_loss("mse_ce", needs_labels=True, mixed_labels=True, standardizes=True)
def mse_ce(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, options: LossOptions) -> Tensor:
    """`mse_weight` times `mse` plus `ce_weight` times `ce` (the founding article)."""
    given = (student_logits, teacher_logits, labels, options)
    return options.mse_weight * mse(*given) + options.ce_weight * ce(*given)


@register_loss("kl", standardizes=True)
def kl(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, options: LossOptions) -> Tensor:
    """KL divergence of the softened outputs, batch mean, times squared temperature (Hinton et al., 2015, sec. 2)."""
    student_logits, teacher_logits = standardized(student_logits, teacher_logits, options)
    student = (student_logits / options.temperature).log_softmax(dim=-1)
    teacher = (teacher_logits / options.temperature).log_softmax(dim=-1)
    return _divergence(student, teacher).mean() * options.temperature**2


@register_loss("kl_ce", mixed_labels=True, standardizes=True)
def kl_ce(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor | None, options: LossOptions) -> Tensor:
    """`kl` plus `ce_weight` times `ce`, which is 0 where no image has a label."""
    given = (student_logits, teacher_logits, labels, options)
    return kl(*given) if labels is None else kl(*given) + options.ce_weight * ce(*given)


@register_loss("dkd", needs_labels=True, standardizes=True)
def dkd(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, options: LossOptions) -> Tensor:
    """Decoupled knowledge distillation (Zhao et al., 2022, eq. 7): `kl` in two parts with weights of their own.

    `alpha` times the divergence of (target class, all others), plus `beta` times the divergence among the others; mean
    over the labelled images of the batch (0 where there is none), times squared temperature.
    """
    import torch
    from torch.nn import functional as F

    from hf_compress.data.images import IGNORED_LABEL

    known = labels != IGNORED_LABEL
    if not known.any():
        return 0 * student_logits.sum()
    student_logits, teacher_logits = standardized(student_logits, teacher_logits, options)
    is_target = F.one_hot(labels[known], student_logits.shape[-1]).bool()

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        log_p = (logits[known] / options.temperature).log_softmax(dim=-1)
        others = log_p[~is_target].view(len(log_p), -1)
        return torch.stack([log_p[is_target], others.logsumexp(dim=-1)], dim=-1), others.log_softmax(dim=-1)

    (student, student_others), (teacher, teacher_others) = parts(student_logits), parts(teacher_logits)
    target, rest = _divergence(student, teacher), _divergence(student_others, teacher_others)
    return (options.alpha * target + options.beta * rest).mean() * options.temperature**2


@register_loss("dist", standardizes=True)
def dist(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, options: LossOptions) -> Tensor:
    """DIST (Huang et al., 2022, eq. 8 and 9): 1 minus the Pearson correlation of the softened softmax outputs.

    `beta` times its mean over the images (relations between the classes of an image), plus `gamma` times its mean over
    the classes (relations between the images of the batch), times squared temperature as in the authors' code.
    """
    student_logits, teacher_logits = standardized(student_logits, teacher_logits, options)
    student = (student_logits / options.temperature).softmax(dim=-1)
    teacher = (teacher_logits / options.temperature).softmax(dim=-1)
    between_classes = 1 - _correlation(student, teacher).mean()
    between_images = 1 - _correlation(student.T, teacher.T).mean()
    return (options.beta * between_classes + options.gamma * between_images) * options.temperature**2


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return KL(teacher || student) of each row of log-probabilities."""
    from torch.nn import functional as F

    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=-1)


def _correlation(first: Tensor, second: Tensor) -> Tensor:
    """Return Pearson's correlation of corresponding rows."""
    from torch.nn import functional as F

    return F.cosine_similarity(
        first - first.mean(dim=-1, keepdim=True), second - second.mean(dim=-1, keepdim=True), dim=-1
    )
