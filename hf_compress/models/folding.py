"""Batch norms folded into the convolutions before them, for inference."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hf_compress.ground.outputs import output_tensors


def fold_batch_norms(model: nn.Module, image: Tensor) -> nn.Module:
    """Return a copy of `model` whose batch norms are part of the convolutions before them.

    A pair is found by running the model once: the batch norm's input is the very tensor that the convolution made.

    Args:
        image: one input, shape (1, 3, height, width).

    Returns:
        The copy, in eval mode. Where folding moved its outputs, because something else reads a convolution's output
        too, nothing is folded.
    """
    model = copy.deepcopy(model).eval()
    folded = copy.deepcopy(model)
    names = {module: name for name, module in folded.named_modules()}
    for convolution, norm in _pairs(folded, image):
        folded.set_submodule(names[convolution], fuse_conv_bn_eval(convolution, norm))
        folded.set_submodule(names[norm], nn.Identity())
    return folded if _same_outputs(folded, model, image) else model


def _pairs(model: nn.Module, image: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    made: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensors are kept alive, so that no later one gets an id anew
    pairs = []

    def remember(convolution: nn.Conv2d, inputs: tuple[Tensor], output: Tensor) -> None:
        made[id(output)] = convolution, output

    def match(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], norm))

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(remember))
        elif type(module) is nn.BatchNorm2d:  # subclasses, such as timm's, hold an activation too
            hooks.append(module.register_forward_pre_hook(match))
    with torch.no_grad():
        model(pixel_values=image)
    for hook in hooks:
        hook.remove()
    return pairs


def _same_outputs(first: nn.Module, second: nn.Module, image: Tensor) -> bool:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ones, others = (output_tensors(model(pixel_values=noise)) for model in (first, second))
    return all(
        torch.allclose(ones[name], other, rtol=1e-3, atol=1e-3 * other.abs().max().item())
        for name, other in others.items()
    )
