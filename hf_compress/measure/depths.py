"""How near a map of depths is to another, where nobody knows scale and shift of either."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hf_compress.data.annotations import Annotation
from hf_compress.device.telling import LEAST, NEAR

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class AnsweredDepth(Annotation):
    """What a model said of a picture: a map (height, width) of its input."""

    seen: Tensor
    classes: tuple[int, ...] = ()

    def parts(self):
        return {"seen": self.seen}

    def renumbered(self, new):
        return self


def at_size(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps (images, height, width) of this size, by bilinear interpolation."""
    from torch.nn import functional as F

    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[:, None].float(), size, mode="bilinear", align_corners=False, antialias=True)[:, 0]


def invariant_distance(maps: Tensor, others: Tensor) -> Tensor:
    """Return the mean absolute difference of maps without their scales and shifts, a scalar.

    From each map its median is taken away, and it is divided by the mean distance from that (Ranftl et al., 2020,
    eq. 5 to 7, without trimming).

    Args:
        maps, others: shape (images, height, width), of one size.
    """

    def standard(values: Tensor) -> Tensor:
        centred = values - values.median(dim=1, keepdim=True).values
        return centred / centred.abs().mean(dim=1, keepdim=True).clamp_min(1e-6)

    return (standard(maps.float().flatten(1)) - standard(others.float().flatten(1))).abs().mean()


def brought_to(maps: Tensor, truth: Tensor) -> Tensor:
    """Return maps with the scale and shift of the truth, by least squares (Ranftl et al., 2020, eq. 3).

    Args:
        maps, truth: shape (images, height, width), of one size.

    Returns:
        Float64, of the same shape.
    """
    said, true = maps.double().flatten(1), truth.double().flatten(1)
    centred, wanted = (values - values.mean(dim=1, keepdim=True) for values in (said, true))
    scale = (centred * wanted).sum(dim=1, keepdim=True) / centred.square().sum(dim=1, keepdim=True).clamp_min(1e-12)
    return (scale * centred + true.mean(dim=1, keepdim=True)).view(truth.shape)


def depth_errors(maps: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Compare maps with the truth, each brought to its scale and shift, see `brought_to`.

    Args:
        maps, truth: shape (images, height, width), of one size; pixels with a truth of less than a hundredth of the
            largest do not count.

    Returns:
        Of each image, shape (images,): `abs_rel`, the mean of the error as a share of the truth, at most 1; and
        `delta_1`, the share of pixels that are less than a quarter too large or too small.
    """
    import torch

    true = truth.double().flatten(1)
    least = LEAST * true.amax(dim=1, keepdim=True).clamp_min(1e-12)
    counted = (true >= least).double()
    found = torch.maximum(brought_to(maps, truth).flatten(1), least)
    true = torch.maximum(true, least)

    def mean(values: Tensor) -> Tensor:
        return (values * counted).sum(dim=1) / counted.sum(dim=1).clamp_min(1)

    near = torch.maximum(found / true, true / found) < NEAR
    return {"abs_rel": mean((found - true).abs() / true).clamp(max=1), "delta_1": mean(near.double())}
