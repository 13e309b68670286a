"""`round_to: auto`: which multiple of channels is fastest on this device, measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_compress.ground.looking import twin
from hf_compress.measure.latency import time_in_turns

MULTIPLES = (1, 2, 4, 8, 16, 32)
LAYERS, REPEATS = 4, 30
SHARE_KEPT = 0.6
AS_FAST = 1.05

Shape = tuple[int, int, tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]


def fastest_multiple(model: PreTrainedModel, image: Tensor) -> tuple[int, dict[str, float]]:
    """Measure the model's own convolutions, narrowed to about 60 % of their channels, at several multiples.

    Of the dense convolutions (one group) the four with the most multiply-accumulates are timed, input and output
    channels narrowed alike, in turn, so that a slow moment of the machine meets all multiples.

    Args:
        model: the model to prune.
        image: one input, shape (1, 3, height, width).

    Returns:
        The smallest multiple whose time per multiply-accumulate is at most 5 % above the best one's, and the figures
        `{"1": 1.31, "8": 1.02, ...}`: time per multiply-accumulate relative to the best. A model without dense
        convolutions gives 1 and no figures.
    """
    shapes = _heaviest(model, image)
    if not shapes:
        return 1, {}
    figures = _measured(shapes, torch.get_num_threads())
    fast = [multiple for multiple, relative in figures if relative <= AS_FAST]
    return min(fast), {str(multiple): round(relative, 3) for multiple, relative in figures}


def narrowed(channels: int, multiple: int) -> int:
    """Return a width near 60 % of `channels` that is divisible by `multiple`, but not by twice as much."""
    odd = round(SHARE_KEPT * channels / multiple)
    return multiple * max(1, odd if odd % 2 else odd - 1)


def _heaviest(model: PreTrainedModel, image: Tensor) -> tuple[Shape, ...]:
    """Return the shapes of the dense convolutions that compute most."""
    found: list[tuple[int, Shape]] = []

    def record(module: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        if module.groups == 1 and min(module.in_channels, module.out_channels) >= 2 * MULTIPLES[-1]:
            shape = (module.in_channels, module.out_channels, module.kernel_size, module.stride, module.dilation)
            macs = output[0].numel() * module.weight[0].numel()
            found.append((macs, (*shape, tuple(inputs[0].shape[-2:]))))

    model = twin(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(record)
    with torch.no_grad():
        model(pixel_values=image)
    distinct = dict(sorted(((shape, macs) for macs, shape in found), key=lambda entry: -entry[1]))
    return tuple(list(distinct)[:LAYERS])


@lru_cache
def _measured(shapes: tuple[Shape, ...], threads: int) -> list[tuple[int, float]]:
    """Return (multiple, relative time per multiply-accumulate); measured once a process and set of shapes."""
    costs = {multiple: 0.0 for multiple in MULTIPLES}
    for shape in shapes:
        layers = [_layer(shape, multiple) for multiple in MULTIPLES]
        times = time_in_turns([call for call, _ in layers], REPEATS, "widths of convolutions")
        for multiple, (_, channels), time in zip(MULTIPLES, layers, times, strict=True):
            costs[multiple] += time["p50_ms"] / channels / len(shapes)
    best = min(costs.values())
    return [(multiple, cost / best) for multiple, cost in costs.items()]


def _layer(shape: Shape, multiple: int) -> tuple[Callable[[], Any], int]:
    """Return a narrowed convolution with its input bound, and the product of its channels."""
    inputs, outputs, kernel, stride, dilation, size = shape
    inputs, outputs = narrowed(inputs, multiple), narrowed(outputs, multiple)
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel[0] // 2, dilation=dilation)
    picture = torch.randn(1, inputs, *size).contiguous(memory_format=torch.channels_last)
    return partial(layer.to(memory_format=torch.channels_last), picture), inputs * outputs
