"""Block pruning: whole residual blocks are dropped from a model, which becomes less deep."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_compress.checkpoint.rewrites import Dropped
from hf_compress.ground.errors import DoesNotRun, RunError, UsageError
from hf_compress.ground.looking import twin
from hf_compress.ground.outputs import output_tensors
from hf_compress.measure.cost import count_parameters, macs_by_module
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.pruner import Pruner
from hf_compress.steps.pruning.remove.removal import Kept
from hf_compress.steps.pruning.remove.symmetry import tried
from hf_compress.steps.pruning.score.blocks import Droppable, order_of_loss
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.scoring import Scores
from hf_compress.steps.pruning.tracing.blocks import find_blocks
from hf_compress.steps.pruning.tracing.groups import Group, Member
from hf_compress.steps.pruning.tracing.labels import Axis


class BlockPruner(Pruner):
    """Drops residual blocks of one model and of copies of it: what a block adds to its input is left out.

    Every block is a group with one unit. One whose loss the model does not bear is protected, see `find_blocks`.

    Args:
        model: unpruned model; amounts refer to its blocks, without those that are dropped already.
        image: one input, shape (1, 3, height, width).
        exclude: names of modules to leave alone; blocks that hold one of them stay.

    Attributes:
        protected: blocks that stay, with the reason.
        blocks: those that can go, with the length of the tuple that each returns.

    Raises:
        RunError: there is no block to drop.
    """

    least = "one block"

    def __init__(self, model: PreTrainedModel, image: Tensor, config: PruneSection, exclude: set[str]):
        self.image = image
        self.config = config
        self.protected = dict.fromkeys(exclude, "excluded by the recipe")
        self.blocks: dict[str, int | None] = {}
        shapes = _output_shapes(model, image)
        for block in find_blocks(model, image):
            if any(module == block.name or module.startswith(f"{block.name}.") for module in exclude):
                continue
            trial = twin(model)
            trial.set_submodule(block.name, Dropped(block.length))
            if _output_shapes(trial, image) == shapes:
                self.blocks[block.name] = block.length
            else:
                self.protected[block.name] = "the model does not run without it"
        if not self.blocks:
            raise RunError(
                f"nothing can be pruned: {type(model).__name__} has no block outside 'exclude' that adds something to "
                "its input and that it runs without; use granularity 'channel'"
            )

    def groups(self, model: PreTrainedModel) -> list[Group]:
        return [_group(model, name) for name in self._left(model)]

    def scores(self, model: PreTrainedModel, amount: float, calibration: Calibration | None = None) -> Scores:
        """Return the place of each block in the order in which they go, from 0; of those that stay, what follows.

        Raises:
            UsageError: there are no images.
        """
        if calibration is None:
            raise UsageError(
                "granularity 'block' needs calibration images, and only the step 'prune' of a recipe has some: use "
                "granularity 'channel' or 'weight' here"
            )
        order = order_of_loss(model, self._droppable(model), self._surplus(model, amount), calibration)
        places = {name: place for place, name in enumerate(order)}
        return {name: torch.tensor([float(places.get(name, len(order)))]) for name in self._left(model)}

    def remove(self, model: PreTrainedModel, scores: Scores, amount: float) -> Kept:
        for name in sorted(scores, key=lambda name: float(scores[name]))[: self._surplus(model, amount)]:
            model.set_submodule(name, Dropped(self.blocks[name]))
        if _output_shapes(model, self.image) is None:
            raise DoesNotRun(f"the model does not run without all of {', '.join(self.blocks)}: exclude some")
        return {}

    def sparsity(self, model: PreTrainedModel) -> float:
        """Return the fraction of the blocks that is dropped."""
        return 1 - len(self._left(model)) / len(self.blocks)

    def _left(self, model: PreTrainedModel) -> list[str]:
        return [name for name in self.blocks if not isinstance(model.get_submodule(name), Dropped)]

    def _surplus(self, model: PreTrainedModel, amount: float) -> int:
        """Return how many more blocks go when the fraction `amount` of all shall be gone."""
        most = math.floor((1 - self.config.floor) * len(self.blocks) + 1e-9)
        return max(0, min(round(amount * len(self.blocks)), most) - len(self.blocks) + len(self._left(model)))

    def _droppable(self, model: PreTrainedModel) -> list[Droppable]:
        """Return the blocks that are left, with what each takes of what `target` counts; without it, one each."""
        costs = dict.fromkeys(self.blocks, 1)
        if self.config.target and self.config.target.metric == "parameters":
            costs = {name: count_parameters(module) for name, module in model.named_modules() if name in self.blocks}
        elif self.config.target and self.config.target.metric == "macs":
            macs = macs_by_module(model, self.image)
            costs = {name: macs.get(name, 0) for name in self.blocks}
        return [Droppable(name, max(costs[name], 1), self.blocks[name]) for name in self._left(model)]


def _group(model: nn.Module, name: str) -> Group:
    """Return the group of a block: one unit, which takes all of its weights."""
    axes = [
        Axis(module, tensor, 0, parameter.shape[0], 0)
        for module, _, tensor in (
            f"{name}.{parameter}".rpartition(".") for parameter, _ in model.get_submodule(name).named_parameters()
        )
        if (parameter := getattr(model.get_submodule(module), tensor)).dim()
    ]
    return Group(name, [Member(axis, np.arange(axis.size)[None]) for axis in axes], [], [], 1)


def _output_shapes(model: nn.Module, image: Tensor) -> dict[str, torch.Size] | None:
    """Return the shapes of what a model gives; None where it does not run."""
    output = tried(model, image)
    return None if output is None else {name: tensor.shape for name, tensor in output_tensors(output).items()}
