"""A k x k convolution as a k x 1 and a 1 x k one (Jaderberg et al., 2014, section 2.1, scheme 2).

    W[o, i, y, x]  ~  sum_r H[o, r, x] V[r, i, y]

The weights as a matrix with rows (i, y) and columns (o, x) have this as their best approximation of a given rank: the
leading terms of its singular value decomposition.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_compress.steps.rewriting.base import Unsuitable
from hf_compress.steps.rewriting.convolutions import convolution_of, require_plain


def factorized(convolution: nn.Conv2d, energy: float) -> list[nn.Module]:
    """Return a vertical and a horizontal convolution; each has its axis of stride, padding and dilation.

    Args:
        energy: the rank is the smallest that keeps this fraction of the sum of squared singular values.

    Raises:
        Unsuitable: the convolution has groups, or a kernel with a side of 1.
    """
    require_plain(convolution)
    height, width = convolution.kernel_size
    if 1 in (height, width):
        raise Unsuitable(f"has a {height}x{width} kernel: nothing to factorize")
    vertical, horizontal = factors(convolution.weight.detach(), energy)
    return [
        convolution_of(vertical, **_along(convolution, 0)),
        convolution_of(horizontal, convolution.bias, **_along(convolution, 1)),
    ]


def factors(weight: Tensor, energy: float) -> tuple[Tensor, Tensor]:
    """Return the vertical and horizontal weights that come nearest to `weight`, of shape (out, in, height, width).

    Returns:
        Shapes (rank, in, height, 1) and (out, rank, 1, width); the singular values are shared evenly.
    """
    out_channels, in_channels, height, width = weight.shape
    matrix = weight.double().permute(1, 2, 0, 3).reshape(in_channels * height, out_channels * width)
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = rank_for_energy(values, energy)
    scale = values[:rank].sqrt()
    vertical = (left[:, :rank] * scale).T.reshape(rank, in_channels, height, 1)
    horizontal = (right[:rank] * scale[:, None]).reshape(rank, out_channels, 1, width).transpose(0, 1)
    return vertical.to(weight.dtype), horizontal.to(weight.dtype)


def rank_for_energy(values: Tensor, energy: float) -> int:
    """Return how many of the descending singular values have at least the fraction `energy` of the sum of squares."""
    kept = values.square().cumsum(dim=0)
    enough = kept >= energy * kept[-1] * (1 - 1e-12)
    return int(enough.int().argmax()) + 1


def _along(convolution: nn.Conv2d, axis: int) -> dict:
    padding = convolution.padding
    return {
        "stride": _one_axis(convolution.stride, axis, 1),
        "padding": padding if isinstance(padding, str) else _one_axis(padding, axis, 0),
        "dilation": _one_axis(convolution.dilation, axis, 1),
        "padding_mode": convolution.padding_mode,
    }


def _one_axis(sizes: tuple[int, int], axis: int, neutral: int) -> tuple[int, int]:
    return (sizes[0], neutral) if axis == 0 else (neutral, sizes[1])
