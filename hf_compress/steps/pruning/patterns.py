"""Pruning in a pattern n:m: at most n weights of each m neighbours along the input dimension are left.

Zhou et al., 2021, "Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch". 2:4 is what NVIDIA's
sparse tensor cores multiply, see `checkpoint.semi_structured`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_compress.errors import RunError
from hf_compress.steps.pruning.config import PruneConfig
from hf_compress.steps.pruning.weights import prunable_weights, sparsity, unpruned_scores


class PatternPruner:
    """Zeroes weights in the pattern of the recipe; the counterpart of `WeightPruner`.

    Args:
        exclude: names of modules to leave alone.

    Attributes:
        parameter_names: the weights that take the pattern.
        protected: layers that stay whole, with the reason.

    Raises:
        RunError: no layer can take the pattern.
    """

    def __init__(self, model: nn.Module, config: PruneConfig, exclude: set[str]):
        self.config = config
        self.n, self.m = config.n_of_m
        weights = prunable_weights(model, exclude)
        self.parameter_names = {name for name, weight in weights.items() if weight.shape[1] % self.m == 0}
        self.protected = dict.fromkeys(exclude, "excluded by the recipe") | {
            name.removesuffix(".weight"): f"its input dimension {weight.shape[1]} is not a multiple of {self.m}"
            for name, weight in weights.items()
            if name not in self.parameter_names
        }
        if not self.parameter_names:
            raise RunError(f"nothing can be pruned: no layer's input dimension is a multiple of {self.m}")

    def prune(self, model: nn.Module, amount: float) -> None:
        """Zero all but the n most important of each m weights, in place; the pattern alone decides how many."""
        with torch.no_grad():
            for name, weight in self._weights(model).items():
                weight.masked_fill_(~pattern_mask(unpruned_scores(name, weight, self.config), self.n, self.m), 0)

    def sparsity(self, model: nn.Module) -> float:
        """Return the fraction of zeros in the layers that take the pattern."""
        return sparsity(self._weights(model))

    def _weights(self, model: nn.Module) -> dict[str, nn.Parameter]:
        return {name: model.get_parameter(name) for name in self.parameter_names}


def pattern_mask(scores: Tensor, n: int, m: int) -> Tensor:
    """Return True at the `n` highest of each `m` neighbouring scores along dimension 1, the input dimension.

    Among equals the last ones are kept, as `keep_masks` does.

    Args:
        scores: shape (outputs, inputs, ...), inputs a multiple of `m`.
    """
    blocks = scores.movedim(1, -1)
    best = blocks.reshape(-1, m).argsort(dim=1, stable=True)[:, m - n :]
    mask = torch.zeros(blocks.numel() // m, m, dtype=torch.bool, device=scores.device).scatter_(1, best, True)
    return mask.reshape(blocks.shape).movedim(-1, 1)
