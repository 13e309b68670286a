"""Dropped blocks, handed over to the blocks before them, in the model that a repair looks up to."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from hf_compress.checkpoint.rewrites import Dropped
from hf_compress.ground.looking import twin
from hf_compress.steps.pruning.tracing.blocks import Block, find_blocks


def handed_over(unpruned: nn.Module, pruned: nn.Module, image: Tensor) -> nn.Module:
    """Return a model that answers as `unpruned`, made of the modules of `pruned`.

    In it, a block that is left adds to its input what the blocks right behind it did that `pruned` lacks. So its last
    layer is repaired to make up for these, and all layers behind read what they read in the unpruned model. Blocks
    with several additions, and others than blocks, are handed nothing.

    Args:
        image: one input, shape (1, 3, height, width).
    """
    model = twin(unpruned)
    if not any(isinstance(module, Dropped) for module in pruned.modules()):
        return model
    for lead, gone in _runs(find_blocks(model, image), pruned):
        _Heir(model.get_submodule(lead.name), [copy.deepcopy(model.get_submodule(block.name)) for block in gone])
        for block in gone:
            model.set_submodule(block.name, Dropped(block.length))
    return model


def _runs(blocks: list[Block], pruned: nn.Module) -> list[tuple[Block, list[Block]]]:
    """Return the blocks that are left, each with the dropped ones right behind it."""
    runs: dict[int, tuple[Block, list[Block]]] = {}  # by the id of the tensor that the last of a run gives
    for block in blocks:
        if not isinstance(pruned.get_submodule(block.name), Dropped):
            if block.additions == 1:
                runs[id(block.output)] = block, []
        elif id(block.source) in runs:
            lead, gone = runs.pop(id(block.source))
            runs[id(block.output)] = lead, [*gone, block]
    return [run for run in runs.values() if run[1]]


class _Heir:
    """Lets `module` add what `followers` did, by hooks, without a change of what its layers read.

    Several forward passes may be in it at a time.
    """

    def __init__(self, module: nn.Module, followers: list[nn.Module]):
        self.chain = [copy.deepcopy(module), *followers]
        self.sources: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by what takes their place in additions
        self.outputs: WeakIdKeyDictionary = WeakIdKeyDictionary()
        module.register_forward_pre_hook(self._before)
        module.register_forward_hook(self._after)
        for inner in module.modules():
            if inner is not module:
                inner.register_forward_pre_hook(self._as_ever)

    def _before(self, module: nn.Module, args: tuple) -> tuple:
        outputs = [args[0]]
        for each in self.chain:
            output = each(outputs[-1], *args[1:])
            outputs.append(output[0] if isinstance(output, tuple) else output)
        _, own, *_, last = outputs
        shifted = args[0] + (last - own)
        self.sources[shifted], self.outputs[shifted] = args[0], last
        return shifted, *args[1:]

    def _as_ever(self, module: nn.Module, args: tuple) -> tuple | None:
        return (self.sources[args[0]], *args[1:]) if args and args[0] in self.sources else None

    def _after(self, module: nn.Module, args: tuple, output: Any) -> Any:
        last = self.outputs[args[0]]
        return (last, *output[1:]) if isinstance(output, tuple) else last
