"""How long models take, measured, and how long each group's layers do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from hf_compress.ground.looking import twin
from hf_compress.ground.tensors import own_tensors, use_channels_last
from hf_compress.measure.latency import cpu_threads, measure_latency, repeated, second_batch, time_in_turns
from hf_compress.sections.measure import MeasureSection
from hf_compress.steps.pruning.tracing.groups import Group

SECONDS, LEAST_TURNS = 5.0, 5
LAYERS_BATCH, LAYERS_TURNS = 8, 15
WIDTHS = (1.0, 0.75, 0.5, 0.25)  # shares of a group's units
LEAST_MS = 1e-9

Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Stopwatch:
    """Times models on the CPU with the batch size, the threads and the first runtime of the recipe's `measure`.

    There are as many turns as `measure.repeats` says, and fewer, at least 5, where the unpruned model's own would take
    more than 5 seconds.

    Attributes:
        unpruned: what time is compared with.
        image: one input, shape (1, 3, height, width).
        measure: section of the recipe.
    """

    unpruned: PreTrainedModel
    image: Tensor
    measure: MeasureSection

    def time_gone(self, pruned: PreTrainedModel) -> float:
        """Return the fraction of the unpruned model's time that a pruned one does not take; both run in turn."""
        whole, left = self._milliseconds([self.unpruned, pruned], self._turns, self.measure.runtimes[0])
        return 1 - left / whole

    @cached_property
    def _turns(self) -> int:
        (whole,) = self._milliseconds([self.unpruned], 1, "eager")
        return max(LEAST_TURNS, min(self.measure.repeats, round(1000 * SECONDS / whole)))

    def _milliseconds(self, models: list[PreTrainedModel], turns: int, runtime: str) -> list[float]:
        size, images = second_batch(self.measure, [self.image]), [self.image] * len(models)
        found = measure_latency(models, images, [size], turns, self.measure.threads, runtime)
        return [of_model[f"batch_{size}"]["p50_ms"] for of_model in found]

    def unit_milliseconds(self, groups: list[Group], without: Callable[[Group, int], nn.Module]) -> dict[str, float]:
        """Return by how many milliseconds the layers around each group are faster for a unit less, by group.

        Every layer that a narrower group gives another shape is run by itself at several widths, in PyTorch, with
        what it gets in the model, for at most 8 images; the slope of a line through the times is the result. It is
        never negative. What is computed between layers, such as the product of an attention, is not seen.

        Args:
            groups: of the unpruned model.
            without: returns a copy of it in which a group lacks so many units.
        """
        batch = repeated(self.image, min(second_batch(self.measure, [self.image]), LAYERS_BATCH))
        with cpu_threads(self.measure.threads):
            whole = _calls(self.unpruned, batch)
            return {group.name: _slope(group, whole, without, batch) for group in groups}


def _slope(group: Group, whole: list[Call], without: Callable[[Group, int], nn.Module], batch: Tensor) -> float:
    left = sorted({max(1, round(share * group.units)) for share in WIDTHS}, reverse=True)
    narrow = [_touched(_calls(without(group, group.units - units), batch), whole) for units in left[1:]]
    calls = [[whole[place] for place in narrow[0]], *(list(each.values()) for each in narrow)]
    times = time_in_turns([partial(_run, each) for each in calls], LAYERS_TURNS, f"layers around {group.name}")
    return max(LEAST_MS, float(np.polyfit(left, [time["p50_ms"] for time in times], 1)[0]))


def _touched(narrow: list[Call], whole: list[Call]) -> dict[int, Call]:
    """Return the calls that have other shapes than those of the unpruned model, by their place."""
    pairs = enumerate(zip(narrow, whole, strict=True))
    return {place: call for place, (call, before) in pairs if _shapes(call) != _shapes(before)}


def _calls(model: nn.Module, batch: Tensor) -> list[Call]:
    """Return what the modules that hold no others are given in a forward pass, in order."""
    calls: list[Call] = []
    looked = twin(model)
    use_channels_last(looked)
    leaves = [module for module in looked.modules() if not any(module.children())]
    handles = [leaf.register_forward_pre_hook(lambda *call: calls.append(call), with_kwargs=True) for leaf in leaves]
    with torch.inference_mode():
        looked(pixel_values=batch)
    for handle in handles:
        handle.remove()
    return calls


def _shapes(call: Call) -> list[torch.Size]:
    module, *given = call
    tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
    return [tensor.shape for tensor in tensors] + [tensor.shape for _, tensor in own_tensors(module)]


def _run(calls: list[Call]) -> None:
    for module, args, kwargs in calls:
        module(*args, **kwargs)
