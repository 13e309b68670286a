"""Batch norms folded into the convolutions before them, for inference, and unfolded to be trained again."""

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hf_compress.data import ImageData
from hf_compress.data.images import batches, spread
from hf_compress.ground.outputs import deployed_tensors
from hf_compress.ground.queries import in_like_order
from hf_compress.models.load import LoadedModel

STATISTICS_IMAGES, STATISTICS_BATCH = 256, 32


def fold_batch_norms(model: nn.Module, image: Tensor) -> nn.Module:
    """Return a copy of `model` in eval mode, whose batch norms are part of the convolutions before them.

    A pair is found by running the model once: the batch norm's input is the very tensor that the convolution made.
    Where folding moved its outputs, because something else reads a convolution's output too, nothing is folded.

    Args:
        image: one input, shape (1, 3, height, width).
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
        expected, found = (deployed_tensors(model(pixel_values=noise)) for model in (second, first))
    found = in_like_order(expected, found)
    return all(
        torch.allclose(found[name], value, rtol=1e-3, atol=1e-3 * value.abs().max().item())
        for name, value in expected.items()
    )


def unfold_batch_norms(loaded: LoadedModel, data: ImageData) -> bool:
    """Give the batch norms of a checkpoint that came with folded ones real statistics, without changing its logits.

    Mobile checkpoints are often published with batch norms folded into the convolutions: means are 0, and variances
    1 or 1 - eps. Trained or re-estimated, such a model normalises with the true statistics for the first time and
    forgets what it knew. Here means and variances become those of training images, and scale and shift undo what that
    changes, in place.

    Returns:
        Whether the batch norms were folded; nothing is changed where they were not.
    """
    norms = [module for module in loaded.model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms or not all(_is_folded(norm) for norm in norms) or not _has_learnt(loaded.model):
        return False
    shown = batches(spread(data.train, STATISTICS_IMAGES), loaded.processor, STATISTICS_BATCH)
    restate_batch_norms(loaded.model.eval(), (batch["pixel_values"] for batch in shown))
    return True


@torch.no_grad()
def restate_batch_norms(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Give batch norms the statistics of what enters them, and let them compute what they did, in place.

    Args:
        model: in eval mode.
        images: batches of one size, each of shape (batch, 3, height, width).
    """
    moments: dict[nn.Module, list[Tensor]] = {
        module: [] for module in model.modules() if isinstance(module, nn.BatchNorm2d)
    }

    def record(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        x = inputs[0].double()
        moments[norm].append(torch.stack([x.mean(dim=(0, 2, 3)), x.square().mean(dim=(0, 2, 3))]))

    hooks = [norm.register_forward_pre_hook(record) for norm in moments]
    for pixels in images:
        model(pixel_values=pixels)
    for hook in hooks:
        hook.remove()
    for norm, of_batches in moments.items():
        mean, square = torch.stack(of_batches).mean(dim=0)
        variance = square - mean.square()
        slope = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += slope * (mean - norm.running_mean)  # weight (x - mean) / sqrt(variance + eps) + bias stays
        norm.weight.copy_(slope * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def _has_learnt(model: nn.Module) -> bool:
    """Tell whether a layer shifts what it gives; where none does, statistics are those of a model nobody trained."""
    layers = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.BatchNorm2d))
    return any(layer.bias is not None and bool(layer.bias.any()) for layer in layers)


def _is_folded(norm: nn.BatchNorm2d) -> bool:
    """Means are 0 and variances 1, or 1 - eps, which makes the divisor exactly 1."""
    neutral = (norm.running_mean == 0).all() and ((norm.running_var - 1).abs() <= 1.01 * norm.eps).all()
    return norm.affine and bool(neutral)
