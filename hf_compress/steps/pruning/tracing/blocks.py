"""Blocks: modules that give what they are given, with something added to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_compress.ground.looking import twin
from hf_compress.steps.pruning.tracing.groups import LAYERS

ADDITIONS = ("add", "add_")


@dataclass(eq=False)
class Block:
    """A module that adds something to its first input, and gives a tensor of that shape.

    Attributes:
        name: of the module.
        length: of the tuple it returns, of which all but the first are None; None where it returns a tensor.
        source: its first input.
        output: the tensor it gives.
    """

    name: str
    length: int | None
    source: Tensor
    output: Tensor


def find_blocks(model: nn.Module, image: Tensor) -> list[Block]:
    """Return the blocks of `model` in the order in which they run.

    They hold a layer and run once. Of blocks within a block these are the smallest, but where one takes the whole way
    from input to output of the outer one: then that is the block, with all that lies beside the way.

    Args:
        image: one input, shape (1, 3, height, width).
    """
    model = twin(model)
    watch = _Watch()
    with torch.no_grad(), watch.watching(model), watch:
        model(pixel_values=image.repeat(2, 1, 1, 1))  # what is the same for all images is added in another shape
    sizes = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_modules()}
    found = [block for block in watch.blocks if watch.calls[block.name] == 1 and _has_layers(model, block.name)]
    return _smallest(found, sizes)


def _smallest(found: list[Block], sizes: dict[str, int]) -> list[Block]:
    """Return those of `found`, in which inner blocks come before outer ones, that hold no other.

    Args:
        sizes: parameters by module.
    """
    smallest: list[Block] = []
    for block in found:
        inner = [other for other in smallest if other.name.startswith(f"{block.name}.")]
        whole_way = any(
            other.source is block.source and other.output is block.output and sizes[other.name] < sizes[block.name]
            for other in inner
        )
        if whole_way or not inner:
            smallest = [other for other in smallest if other not in inner] + [block]
    return smallest


@dataclass
class _Call:
    """A module that runs.

    Attributes:
        source: its first input; None where that is no tensor.
        added: whether something was added to it.
    """

    source: Tensor | None
    added: bool = False


class _Watch(TorchDispatchMode):
    """Finds the modules of a forward pass that are blocks, in the order in which they end, and counts calls."""

    def __init__(self):
        super().__init__()
        self.blocks: list[Block] = []
        self.calls: Counter[str] = Counter()
        self._running: list[_Call] = []

    def watching(self, model: nn.Module) -> ExitStack:
        stack = ExitStack()
        for name, module in model.named_modules():
            before, after = self._hooks(name)
            if name:
                stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
                stack.callback(module.register_forward_hook(after).remove)
        return stack

    def _hooks(self, name: str) -> tuple[Callable, Callable]:
        def before(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            first = next(iter((*args, *kwargs.values())), None)
            self._running.append(_Call(first if isinstance(first, Tensor) else None))

        def after(module: nn.Module, args: tuple, output: Any) -> None:
            call = self._running.pop()
            self.calls[name] += 1
            parts = output if isinstance(output, tuple) and output else (output,)
            alone = isinstance(parts[0], Tensor) and all(part is None for part in parts[1:])
            if call.added and alone and parts[0].shape == call.source.shape:
                length = len(parts) if parts is output else None
                self.blocks.append(Block(name, length, call.source, parts[0]))

        return before, after

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        terms = args[:2] if func.overloadpacket.__name__ in ADDITIONS and isinstance(args[1], Tensor) else ()
        if terms and terms[0].shape == terms[1].shape:
            for call in self._running:
                call.added |= call.source is not None and any(_is_same(call.source, term) for term in terms)
        return func(*args, **(kwargs or {}))


def _has_layers(model: nn.Module, name: str) -> bool:
    return any(isinstance(module, LAYERS) for module in model.get_submodule(name).modules())


def _is_same(source: Tensor, term: Tensor) -> bool:
    """Whether `term` is all of `source`, in this or another shape."""
    memory = source.untyped_storage().data_ptr()
    return term.numel() == source.numel() and term.untyped_storage().data_ptr() == memory
