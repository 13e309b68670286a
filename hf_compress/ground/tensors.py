"""Where a model holds its weights, how they lie in memory, and the momentum of its statistics."""

import copy
from itertools import chain

import torch
from torch import Tensor, nn

MANY_CHANNELS = 16  # floats in a register of AVX-512


def own_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers of a module, not of those inside it, with their names there."""
    return [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]


def copy_with_same_tensors(model: nn.Module) -> nn.Module:
    """Return a copy of the modules that holds the very parameters and buffers of `model`."""
    return copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())})


def use_channels_last(model: nn.Module) -> None:
    """Lay out the weights of 2-d convolutions as the fast CPU and GPU kernels want them; values do not change.

    Models that use a convolution's weights twice stay as they are: neither transformers nor safetensors finds out in
    that layout which weights are shared, and so they could not be saved. Models with a convolution whose gradients
    torch gets wrong in that layout get the ordinary one.
    """
    uses = [id(weight) for _, weight in model.named_parameters(remove_duplicate=False) if weight.dim() == 4]
    if len(uses) > len(set(uses)):
        return
    ordinary = any(map(_has_wrong_gradients, model.modules()))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            weight = module.weight.data
            if ordinary:  # `contiguous` would leave the strides of 1x1 kernels, by which torch chooses its own layout
                module.weight.data = weight.flatten().view(weight.shape)
            else:
                module.weight.data = weight.contiguous(memory_format=torch.channels_last)


def use_torch_momentum(model: nn.Module) -> None:
    """Undo a batch-norm momentum that was copied from TensorFlow, where it means 1 - momentum.

    With 0.997, as in transformers' MobileNetV2, the running statistics are those of the last batch alone, and a model
    that was trained further is evaluated with them.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.momentum or 0) > 0.5:
            module.momentum = 0.1


def _has_wrong_gradients(module: nn.Module) -> bool:
    """Whether a convolution is pointwise, has a stride, and reads fewer than 16 channels.

    Channels-last, torch 2.14 (oneDNN) makes wrong gradients of it, with AVX2 of fewer than 8 and with AVX-512 of fewer
    than 16 channels, and writes beyond its memory: the process may crash, or train towards nonsense.
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels < MANY_CHANNELS
    )
