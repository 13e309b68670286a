"""A k x k convolution as two cheaper ones: depthwise and pointwise, or k x 1 and 1 x k."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_compress.steps.rewriting.base import Unsuitable


def require_plain(convolution: nn.Conv2d) -> None:
    """Raise `Unsuitable` for a convolution with groups, or one that is more than torch's own."""
    if type(convolution) is not nn.Conv2d:
        raise Unsuitable(f"is a {type(convolution).__name__}, which is more than a convolution")
    if convolution.groups > 1:
        depthwise = convolution.groups == convolution.in_channels
        raise Unsuitable("is depthwise already" if depthwise else f"has {convolution.groups} groups")


def convolution_of(weight: Tensor, bias: Tensor | None = None, **options) -> nn.Conv2d:
    """Return a convolution with the given weights, of shape (out, in / groups, height, width)."""
    out_channels, in_channels, *kernel = weight.shape
    groups = options.get("groups", 1)
    made = nn.Conv2d(
        in_channels * groups, out_channels, kernel, bias=bias is not None, device="meta", dtype=weight.dtype, **options
    )
    made.weight = nn.Parameter(weight.contiguous())
    if bias is not None:
        made.bias = nn.Parameter(bias.detach().clone())
    return made


def separable(convolution: nn.Conv2d, rank: int = 1) -> list[nn.Module]:
    """Return a depthwise convolution with stride, padding and dilation of the old one, and a pointwise with its bias.

    With rank 1 this is the depthwise separable convolution of MobileNets (Howard et al., 2017, section 3.1).

    Args:
        rank: depthwise kernels for each input channel.

    Raises:
        Unsuitable: the convolution has groups, or a kernel of 1 x 1.
    """
    require_plain(convolution)
    height, width = convolution.kernel_size
    if height * width == 1:
        raise Unsuitable("has a 1x1 kernel: is pointwise already")
    depthwise, pointwise = separated(convolution.weight.detach(), min(rank, height * width, convolution.out_channels))
    return [
        convolution_of(
            depthwise,
            stride=convolution.stride,
            padding=convolution.padding,
            dilation=convolution.dilation,
            padding_mode=convolution.padding_mode,
            groups=convolution.in_channels,
        ),
        convolution_of(pointwise, convolution.bias),
    ]


def separated(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the depthwise and pointwise weights that come nearest to `weight`, of shape (out, in, height, width).

        W[o, i, y, x]  ~  sum_r P[o, (i, r)] D[(i, r), y, x]

    The kernels of one input channel, as a matrix of shape (out, height * width), have as their best approximation of
    rank r in the least squares sense the leading terms of its singular value decomposition (Eckart and Young, 1936).

    Returns:
        Shapes (in * rank, 1, height, width) and (out, in * rank, 1, 1); the singular values are shared evenly.
    """
    out_channels, in_channels, height, width = weight.shape
    slices = weight.double().transpose(0, 1).reshape(in_channels, out_channels, height * width)
    left, values, right = torch.linalg.svd(slices, full_matrices=False)
    scale = values[:, :rank, None].sqrt()
    depthwise = (right[:, :rank] * scale).reshape(in_channels * rank, 1, height, width)
    pointwise = (left[:, :, :rank].transpose(1, 2) * scale).reshape(in_channels * rank, out_channels).T
    return depthwise.to(weight.dtype), pointwise[:, :, None, None].to(weight.dtype)


def factorized(convolution: nn.Conv2d, energy: float) -> list[nn.Module]:
    """Return a vertical and a horizontal convolution; each has its axis of stride, padding and dilation.

    That is scheme 2 of Jaderberg et al., 2014, section 2.1.

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

        W[o, i, y, x]  ~  sum_r H[o, r, x] V[r, i, y]

    The weights as a matrix with rows (i, y) and columns (o, x) are approximated like those of `separated`.

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
