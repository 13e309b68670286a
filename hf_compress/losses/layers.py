"""Losses that compare a layer of the student with one of the teacher.

Each function gets two maps of the shape (batch, channels, height, width) with equal sides, and returns a scalar; see
`features` for how the outputs of layers become such maps. The loss of several pairs is their sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_compress.losses.logits import register_loss
from hf_compress.sections.distillation import LossOptions

if TYPE_CHECKING:
    from torch import Tensor


@register_loss("hints", compares_layers=True, projects=True)
def hints(student_map: Tensor, teacher_map: Tensor, options: LossOptions) -> Tensor:
    """Mean squared error between the maps (FitNets: Romero et al., 2015, eq. 3, where it is half of the sum)."""
    from torch.nn import functional as F

    return F.mse_loss(student_map, teacher_map)


@register_loss("attention", compares_layers=True)
def attention(student_map: Tensor, teacher_map: Tensor, options: LossOptions) -> Tensor:
    """Mean squared error between attention maps (Zagoruyko and Komodakis, 2017, sec. 3.1, as in their code).

    The attention map of an image is the sum of squares over the channels, divided by its own L2 norm.
    """
    from torch.nn import functional as F

    def attended(maps: Tensor) -> Tensor:
        return F.normalize(maps.square().sum(dim=1).flatten(1), dim=1)

    return F.mse_loss(attended(student_map), attended(teacher_map))
