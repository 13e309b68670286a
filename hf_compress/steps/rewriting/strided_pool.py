"""Pooling as a depthwise 3 x 3 convolution of stride 2, as in all-convolutional nets (Springenberg et al., 2015)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_compress.steps.rewriting.base import Unsuitable
from hf_compress.steps.rewriting.convolutions import convolution_of

Samples = Callable[[], Iterable[tuple[Tensor, Tensor]]]
KERNEL, STRIDE = 3, 2
AT_ONCE = 4


def strided_pool(pool: nn.MaxPool2d | nn.AvgPool2d, samples: Samples) -> list[nn.Module]:
    """Return a convolution that imitates a pooling module, after a padding where it needs an uneven one.

    Its output has the pooling's size for any input. Average pooling is a convolution: it is expressed exactly, but for
    borders where it divides by another number. For max pooling, weights and bias are a least squares fit, channel by
    channel.

    Args:
        samples: what the module reads and makes on real images.

    Raises:
        Unsuitable: a window that does not fit into 3 x 3, or another stride than 2.
    """
    margins = [margin for axis in (1, 0) for margin in _margins(pool, axis)]
    if isinstance(pool, nn.MaxPool2d):
        weight, bias = _fitted(samples(), margins)
    else:
        weight, bias = _averaging(pool, next(iter(samples()))[0]), None
    options = {"stride": STRIDE, "groups": len(weight)}
    left, right, top, bottom = margins
    if left == right and top == bottom:
        return [convolution_of(weight, bias, padding=(top, left), **options)]
    return [nn.ZeroPad2d(margins), convolution_of(weight, bias, **options)]


def _margins(pool: nn.Module, axis: int) -> tuple[int, int]:
    """Return the padding before and after along one axis: windows begin where the pooling's do, and are as many.

    The pooling makes floor((n + 2 * padding - kernel) / 2) + 1 values of n, with `ceil_mode` of n + 1.
    """
    kernel, stride, padding, dilation = (
        value[axis] if isinstance(value, (tuple, list)) else value
        for value in (pool.kernel_size, pool.stride, pool.padding, getattr(pool, "dilation", 1))
    )
    if stride != STRIDE:
        raise Unsuitable(f"has stride {stride}: only pooling of stride 2 becomes a convolution of stride 2")
    if not 1 < kernel <= KERNEL or dilation != 1:
        raise Unsuitable(f"pools over {kernel} values {dilation} apart, which a 3x3 kernel does not cover")
    if getattr(pool, "return_indices", False):
        raise Unsuitable("returns the indices of its maxima, too")
    if pool.ceil_mode and padding and kernel == 2:
        raise Unsuitable("drops its last window for some sizes (ceil_mode with padding)")
    return padding, padding + KERNEL - kernel + int(pool.ceil_mode)


def _averaging(pool: nn.AvgPool2d, read: Tensor) -> Tensor:
    """Return the weights of a depthwise convolution that averages."""
    height, width = (pool.kernel_size,) * 2 if isinstance(pool.kernel_size, int) else pool.kernel_size
    weight = torch.zeros(read.shape[1], 1, KERNEL, KERNEL, dtype=read.dtype)
    weight[:, :, :height, :width] = 1 / (pool.divisor_override or height * width)
    return weight


def _fitted(samples: Iterable[tuple[Tensor, Tensor]], margins: list[int]) -> tuple[Tensor, Tensor]:
    """Return weights (channels, 1, 3, 3) and bias (channels,) with the least squared error (normal equations)."""
    gram, moment = 0, 0
    for read, made in samples:
        for x, y in zip(read.split(AT_ONCE), made.split(AT_ONCE), strict=True):
            channels = x.shape[1]
            taps = F.unfold(F.pad(x, margins), KERNEL, stride=STRIDE).unflatten(1, (channels, -1))
            taps = torch.cat([taps, torch.ones_like(taps[:, :, :1])], dim=2).transpose(0, 1).transpose(1, 2).flatten(2)
            wanted = y.flatten(2).transpose(0, 1).flatten(1)[:, :, None]
            gram = gram + (taps @ taps.mT).double()
            moment = moment + (taps @ wanted).double()
    solution = (torch.linalg.pinv(gram, hermitian=True) @ moment).squeeze(2).to(read.dtype)
    return solution[:, :-1].reshape(-1, 1, KERNEL, KERNEL), solution[:, -1]
