"""Weight pruning: entries, slices, or some of each few neighbours become zero."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from hf_compress.ground.errors import RunError
from hf_compress.steps.pruning.allocate.masks import keep_masks, pattern_mask
from hf_compress.steps.pruning.allocate.shares import shares_for_budget
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.pruner import Pruner
from hf_compress.steps.pruning.remove.removal import Kept
from hf_compress.steps.pruning.score.scoring import Scores
from hf_compress.steps.pruning.tracing.groups import Group, group_of_weight

PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


class WeightPruner(Pruner):
    """Sets the least important entries, or slices along `config.dim`, to zero.

    Without `floor` the zeros are those of `torch.nn.utils.prune`: `l1_unstructured` (scope `layer`),
    `global_unstructured` (scope `global`) and `ln_structured` (`dim`). What is zero already goes first under every
    criterion, and counts.

    Args:
        exclude: names of modules to leave alone.

    Attributes:
        parameter_names: the weights in which entries become zero.

    Raises:
        RunError: there is no layer to prune.
    """

    least = "one weight of a layer"

    def __init__(self, model: nn.Module, config: PruneSection, exclude: set[str]):
        self.config = config
        self.protected = dict.fromkeys(exclude, "excluded by the recipe")
        self.names = list(prunable_weights(model, exclude))
        self.parameter_names = set(self.names)

    def weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return {name: model.get_parameter(name) for name in self.names}

    def groups(self, model: nn.Module) -> list[Group]:
        return [group_of_weight(name, weight, self.config.dim) for name, weight in self.weights(model).items()]

    @torch.no_grad()
    def remove(self, model: nn.Module, scores: Scores, amount: float) -> Kept:
        weights = {name: model.get_parameter(name) for name in scores}
        alive = {name: self._alive(weight, scores[name]) for name, weight in weights.items()}
        for name, mask in self.masks(alive, amount).items():
            weights[name].masked_fill_(~mask, 0)
        return {}

    def masks(self, scores: Scores, amount: float) -> dict[str, Tensor]:
        """Return False where weights become zero, in a shape that fits the weight's.

        Args:
            scores: in the shapes of the masks; -inf where all is zero already.
        """
        config, amounts = self.config, None
        if config.sensitivity:
            sizes = {name: values.numel() for name, values in scores.items()}
            amounts = shares_for_budget(config.sensitivity, sizes, amount)
        return keep_masks(scores, config.scope, amount, config.floor, amounts)

    def sparsity(self, model: nn.Module) -> float:
        """Return the fraction of entries that are zero."""
        return sparsity(self.weights(model))

    def _alive(self, weight: Tensor, scores: Tensor) -> Tensor:
        """Return the scores of a weight in the shape of its mask, with -inf where all is zero already."""
        dim = self.config.dim
        shape = weight.shape if dim is None else [-1 if axis == dim else 1 for axis in range(weight.dim())]
        scores = scores.view(shape)
        if torch.count_nonzero(weight) == weight.numel():
            return scores
        gone = weight == 0
        if dim is not None:
            gone = gone.all(dim=[axis for axis in range(weight.dim()) if axis != dim], keepdim=True)
        return scores.masked_fill(gone, -torch.inf)


class PatternPruner(WeightPruner):
    """Zeroes weights in a pattern n:m: at most n of each m neighbours along the input dimension are left.

    Zhou et al., 2021, "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch". 2:4 is what NVIDIA's
    sparse tensor cores multiply, see `checkpoint.semi_structured`. The pattern alone decides how many weights go.

    Raises:
        RunError: no layer can take the pattern.
    """

    def __init__(self, model: nn.Module, config: PruneSection, exclude: set[str]):
        super().__init__(model, config, exclude)
        self.n, self.m = config.n_of_m
        for name, weight in self.weights(model).items():
            if weight.shape[1] % self.m:
                reason = f"its input dimension {weight.shape[1]} is not a multiple of {self.m}"
                self.protected[name.removesuffix(".weight")] = reason
                self.names.remove(name)
        self.parameter_names = set(self.names)
        if not self.names:
            raise RunError(f"nothing can be pruned: no layer's input dimension is a multiple of {self.m}")

    def groups(self, model: nn.Module) -> list[Group]:
        return [replace(group, pattern=(self.n, self.m)) for group in super().groups(model)]

    def masks(self, scores: Scores, amount: float) -> dict[str, Tensor]:
        return {name: pattern_mask(values, self.n, self.m) for name, values in scores.items()}


def prunable_weights(model: nn.Module, exclude: set[str]) -> dict[str, nn.Parameter]:
    """Return the weights of convolutions and linear layers by parameter name.

    One that several layers share is there once, and not at all where one of them is excluded.

    Raises:
        RunError: there are none.
    """
    layers = {name: module.weight for name, module in model.named_modules() if isinstance(module, PRUNABLE)}
    seen = {id(weight) for name, weight in layers.items() if name in exclude}
    weights = {}
    for name, weight in layers.items():
        if id(weight) not in seen:
            weights[f"{name}.weight"] = weight
        seen.add(id(weight))
    if not weights:
        raise RunError("nothing can be pruned: the model has no convolution or linear layer outside 'exclude'")
    return weights


def sparsity(weights: dict[str, nn.Parameter]) -> float:
    """Return the fraction of entries that are zero."""
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    return zeros / sum(weight.numel() for weight in weights.values())
