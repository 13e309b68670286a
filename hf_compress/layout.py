"""Where a model holds its weights, and how they lie in memory."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn


def own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers of a module, not of those inside it, with their names there."""
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def copy_with_same_tensors(model: nn.Module) -> nn.Module:
    """Return a copy of the modules that holds the very parameters and buffers of `model`."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})


def use_channels_last(model: nn.Module) -> None:
    """Lay out the weights of 2-d convolutions as the fast CPU and GPU kernels want them; values do not change.

    Models that use a convolution's weights twice stay as they are: neither transformers nor safetensors finds out in
    that layout which weights are shared, and so they could not be saved.
    """
    uses = [id(weight) for _, weight in model.named_parameters(remove_duplicate=False) if weight.dim() == 4]
    if len(uses) > len(set(uses)):
        return
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
