"""A k x k convolution as a depthwise and a pointwise one.

    W[o, i, y, x]  ~  sum_r P[o, (i, r)] D[(i, r), y, x]

The kernels of one input channel, as a matrix of shape (out, k * k), have this as their best approximation of rank r in
the least squares sense: the leading terms of its singular value decomposition (Eckart and Young, 1936). With r = 1 the
pair is the depthwise separable convolution of MobileNets (Howard et al., 2017, section 3.1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_compress.steps.rewriting.base import Unsuitable
from hf_compress.steps.rewriting.convolutions import convolution_of, require_plain


def separable(convolution: nn.Conv2d, rank: int = 1) -> list[nn.Module]:
    """Return a depthwise convolution with stride, padding and dilation of the old one, and a pointwise with its bias.

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
