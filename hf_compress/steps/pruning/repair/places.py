"""What stands around a layer: the norm that follows it, and what is added to what it makes."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from hf_compress.steps.pruning.repair.linear import as_matrix, columns, rows
from hf_compress.steps.pruning.repair.lockstep import Key, Operations
from hf_compress.steps.pruning.tracing.groups import LAYERS

TOLERANCE = 1e-3
LOOKED_AT = 4  # images


@dataclass
class Place:
    """A layer that can be repaired.

    Attributes:
        layer: its name.
        norm: the batch norm that alone normalises its output.
        skip: the tensor to which its output is added, by the layer that ran last before the addition.
        gain: what each channel of its output is multiplied with by the norm, or up to that addition, shape (outputs,).
    """

    layer: str
    norm: nn.Module | None = None
    skip: Key | None = None
    gain: Tensor | None = None


def find_places(model: nn.Module, images: Tensor) -> tuple[list[Place], dict[str, str]]:
    """Return the layers of `model` in the order in which they run, and those that cannot be repaired with the reason.

    Args:
        model: in eval mode.
        images: shape (batch, 3, height, width); a few of them are looked at, to tell what is added to what.
    """
    finder = _Finder(model)
    with torch.no_grad(), finder.watching(), finder:
        model(pixel_values=images[:LOOKED_AT])
    for name, place in finder.places.items():
        if finder.readers[name] > 1 or finder.readers[id(place.norm)] > 1:
            place.norm = None
    weights = [id(module.weight) for module in finder.layers.values()]
    stay = {}
    for name, module in finder.layers.items():
        if finder.calls[name] != 1 or weights.count(id(module.weight)) > 1:
            stay[name] = "it runs several times, or never"
        elif name in finder.odd:
            stay[name] = "it is more than a product with its weight"
    return [place for name, place in finder.places.items() if name not in stay], stay


class _Finder(Operations):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.layers = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
        self.norms = {
            id(module.running_mean): module
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
        }
        self.places: dict[str, Place] = {}
        self.calls: Counter[str] = Counter()
        self.odd: set[str] = set()
        self.keys: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.output: Tensor | None = None
        self.outputs: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.readers: Counter[str | int] = Counter()  # of a layer's output, by its name; calls of a norm, by its id

    def made(self, key: Key, tensor: Tensor) -> None:
        self.keys[tensor] = key
        if tensor is self.output:
            self.output = None  # changed in place, it is the layer's output no more

    def watching(self):
        stack = ExitStack()
        for name, module in self.layers.items():
            stack.callback(module.register_forward_hook(self._hook(name)).remove)
        return stack

    def _hook(self, name: str):
        def after(module, args, output):
            self.calls[name] += 1
            self.places[name] = Place(name)
            self.output = None
            if not _is_product(module, args[0], output):
                self.odd.add(name)
            self.output, self.outputs[output] = output, name
            self.key = name, 0

        return after

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        norm = self.norms.get(id(args[3])) if "batch_norm" in name else None
        read = [self.outputs[leaf] for leaf in tree_leaves(args) if isinstance(leaf, Tensor) and leaf in self.outputs]
        self.readers.update([*read, *([id(norm)] if norm else [])])
        if self.output is not None:
            if norm and args[0] is self.output:
                place = self.places[self.key[0]]
                place.norm, place.gain = norm, _gain_of(norm)
            elif name in ("add", "add_") and isinstance(args[1], Tensor) and args[0].shape == args[1].shape:
                self._added(*args[:2])
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _added(self, one: Tensor, other: Tensor) -> None:
        place, made = self.places[self.key[0]], self.output
        self.output = None  # what is added later is added to more than this layer's output
        for value, skip in ((one, other), (other, one)):
            if value.shape == made.shape and skip in self.keys and skip is not value:
                scale = _scale(self.layers[self.key[0]], made, value)
                if scale is not None:
                    place.skip, place.gain = self.keys[skip], scale
                    return


def _gain_of(norm: nn.Module) -> Tensor:
    deviation = (norm.running_var + norm.eps).sqrt()
    return (torch.ones_like(deviation) if norm.weight is None else norm.weight) / deviation


def _scale(layer: nn.Module, made: Tensor, value: Tensor) -> Tensor | None:
    """Return by how much each channel of `made` was multiplied in `value`; None where that is not all."""
    made, value = (rows(layer, tensor).transpose(1, 2).flatten(0, 1).double() for tensor in (made, value))
    made, value = (tensor - tensor.mean(dim=1, keepdim=True) for tensor in (made, value))
    scale = (made * value).sum(dim=1) / made.square().sum(dim=1).clamp_min(torch.finfo(torch.float32).tiny)
    missed = (value - scale[:, None] * made).abs().amax()
    return scale.float() if missed <= TOLERANCE * value.abs().amax() else None


def _is_product(layer: nn.Module, source: Tensor, output: Tensor) -> bool:
    try:
        product = columns(layer, source) @ as_matrix(layer).transpose(1, 2)
        if layer.bias is not None:
            product = product + layer.bias.view(len(product), 1, -1)
        expected = rows(layer, output)
    except (RuntimeError, NotImplementedError):
        return False
    return product.shape == expected.shape and bool(
        (product - expected).abs().amax() <= TOLERANCE * expected.abs().amax()
    )
