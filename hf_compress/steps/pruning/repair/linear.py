"""Convolutions and linear layers as what they are: the product of a matrix with columns of numbers, by group."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D


def as_matrix(layer: nn.Module) -> Tensor:
    """Return the weight as (groups, outputs a group, inputs a group); for convolutions by position, too."""
    if isinstance(layer, Conv1D):
        return layer.weight.T[None]
    return layer.weight.flatten(1).unflatten(0, (getattr(layer, "groups", 1), -1))


def set_matrix(layer: nn.Module, matrix: Tensor) -> None:
    """Write a weight that `as_matrix` gave, changed, into the layer."""
    matrix = matrix.flatten(0, 1).to(layer.weight.dtype)
    layer.weight.data.copy_(matrix.T if isinstance(layer, Conv1D) else matrix.view(layer.weight.shape))


def columns(layer: nn.Module, source: Tensor) -> Tensor:
    """Return what the weight is multiplied with, shape (groups, samples, inputs a group).

    Args:
        source: the layer's input.

    Raises:
        NotImplementedError: the layer convolves in one or three dimensions.
    """
    if not isinstance(layer, nn.modules.conv._ConvNd):
        return source.reshape(1, -1, source.shape[-1])
    if not isinstance(layer, nn.Conv2d):
        raise NotImplementedError
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padding = layer._reversed_padding_repeated_twice
    source = F.pad(source, padding, mode) if any(padding) else source
    if layer.kernel_size == (1, 1):
        taken = source[..., :: layer.stride[0], :: layer.stride[1]].flatten(2)
    else:
        taken = F.unfold(source, layer.kernel_size, layer.dilation, 0, layer.stride)
    return taken.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)


def rows(layer: nn.Module, output: Tensor) -> Tensor:
    """Return what the layer gives, shape (groups, samples, outputs a group)."""
    if not isinstance(layer, nn.modules.conv._ConvNd):
        return output.reshape(1, -1, output.shape[-1])
    return output.flatten(2).unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)


def output_dim(layer: nn.Module) -> int:
    """Return the dimension of its output in which a layer's channels are."""
    return 1 if isinstance(layer, nn.modules.conv._ConvNd) else -1
