"""Pruning by optimizer steps."""

from __future__ import annotations

import logging
import math
import re

import torch
from torch import Tensor, nn

from hf_compress.adapters.neural_compressor.legacy.configs import GRADIENT_TYPES, PrunerOptions, parse_pattern
from hf_compress.errors import UsageError
from hf_compress.steps.pruning.blocks import pattern_masks
from hf_compress.steps.pruning.config import CRITERIA
from hf_compress.steps.pruning.remove.weights import PRUNABLE, sparsity

logger = logging.getLogger(__name__)
MOMENTUM = 0.9


class Pruner:
    """Zeroes the weights of some layers while a loop trains them.

    Args:
        model: its classifier, when that is the last module, is left alone.

    Raises:
        UsageError: the options match no layer, or none that the pattern fits.
    """

    def __init__(self, options: PrunerOptions, model: nn.Module):
        self.options = options
        self.pattern = parse_pattern(options.pattern)
        self.weights = self._layers(model)
        self.step = self.done = 0
        self.last_pruned_step = -1
        self.scores: dict[str, Tensor] = {}
        self.masks = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in self.weights.items()}
        self.prunings = max(1, (options.end_step - options.start_step) // options.pruning_frequency)
        if options.end_step - options.start_step < options.pruning_frequency:
            self.done = 1

    def on_step_begin(self) -> None:
        """Prune where the schedule says so, once a step of the optimizer."""
        options = self.options
        due = options.start_step <= self.step <= options.end_step and self.step != self.last_pruned_step
        if not due or (self.step - options.start_step) % options.pruning_frequency:
            return
        self.last_pruned_step = self.step
        if options.pruning_type == "pattern_lock":
            self.masks = {name: weight.detach() != 0 for name, weight in self.weights.items()}
            return
        if amount := scheduled_sparsity(options, self.done, self.prunings):
            self._prune(amount)
        self.done += 1

    def on_before_optimizer_step(self) -> None:
        """Score the weights by their gradients.

        `snip_momentum` sums |weight * gradient| with momentum 0.9, after Lee et al., 2019, "SNIP".
        """
        if self.options.pruning_type not in GRADIENT_TYPES:
            return
        for name, weight in self.weights.items():
            if weight.grad is None:
                continue
            score = weight.grad.abs() if self.options.pruning_type == "gradient" else (weight * weight.grad).abs()
            if self.options.pruning_type == "snip_momentum" and name in self.scores:
                score += MOMENTUM * self.scores[name]
            self.scores[name] = score.detach()

    def on_after_optimizer_step(self) -> None:
        """Keep the zeros."""
        self._hold()
        self.step += 1

    def on_train_end(self) -> None:
        """Tell the sparsity, and whether the training was long enough."""
        logger.info("sparsity of the pruned layers: %.4f", sparsity(self.weights))
        if self.step <= self.options.end_step and self.options.pruning_type != "pattern_lock":
            logger.warning(
                "training ended after %d steps, before end_step %d: sparsity is %.4f, not %.4f",
                self.step,
                self.options.end_step,
                sparsity(self.weights),
                self.options.target_sparsity,
            )

    def _prune(self, amount: float) -> None:
        if self.options.pruning_type == "magnitude":
            score = CRITERIA.get("l1").function
            self.scores = {name: score(weight.detach(), None, 1.0) for name, weight in self.weights.items()}
        if self.scores:
            scope = "global" if self.options.pruning_scope == "global" else "layer"
            floor = 1 - min(1.0, self.pattern.units(self.options.max_sparsity_ratio_per_op))
            scores = {name: values.masked_fill(~self.masks[name], -torch.inf) for name, values in self.scores.items()}
            self.masks |= pattern_masks(scores, self.pattern, scope, amount, floor)
            self._hold()

    def _hold(self) -> None:
        with torch.no_grad():
            for name, mask in self.masks.items():
                self.weights[name].masked_fill_(~mask, 0)

    def _layers(self, model: nn.Module) -> dict[str, nn.Parameter]:
        options = self.options
        modules = [(name, module) for name, module in model.named_modules() if not isinstance(module, nn.Dropout)]
        last_name, last = modules[-1]
        head = last_name if isinstance(last, nn.Linear | nn.Conv2d) else None
        chosen = {
            name: module.weight
            for name, module in modules
            if isinstance(module, PRUNABLE)
            and name != head
            and any(kind in type(module).__name__ for kind in options.pruning_op_types)
            and (not options.op_names or any(re.search(pattern, name) for pattern in options.op_names))
            and not any(re.search(pattern, name) for pattern in options.excluded_op_names)
        }
        fitting = {name: weight for name, weight in chosen.items() if self.pattern.fits(weight)}
        for name in chosen.keys() - fitting.keys():
            logger.warning("'%s' is not pruned: pattern %s does not fit its shape", name, options.pattern)
        if not fitting:
            names = ", ".join(name for name, module in modules if isinstance(module, PRUNABLE))
            raise UsageError(
                f"op_names {options.op_names} and pattern '{options.pattern}' leave no layer to prune; layers: {names}"
            )
        return fitting


def scheduled_sparsity(options: PrunerOptions, done: int, prunings: int) -> float:
    """Return the sparsity after `done` of `prunings` prunings, from 0 to the target (Neural Compressor's curves)."""
    target = min(options.target_sparsity, options.max_sparsity_ratio_per_op)
    progress = done / prunings
    curves = {
        "linear": progress * target,
        "cube": progress**3 * target,
        "cos": (1 - math.cos(progress * math.pi / 2)) * target,
        "exp": 1 - (1 - target) ** progress,
    }
    return curves[options.sparsity_decay_type]
