"""Trials of a changed model: whether it runs, and whether the order of its channels matters."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from hf_compress.ground.outputs import output_tensors
from hf_compress.ground.tensors import copy_with_same_tensors, own_tensors
from hf_compress.steps.pruning.tracing.groups import Group
from hf_compress.steps.pruning.tracing.trace import drop_caches

logger = logging.getLogger(__name__)
Values = dict[int, Tensor]  # by the id of the parameter or buffer that they stand for
FAILURES = (RuntimeError, IndexError, ValueError, AttributeError, AssertionError, KeyError, TypeError)
TOLERANCE = 1e-4


def tried(model: nn.Module, image: Tensor) -> Any | None:
    """Return what a model gives for an image, shape (1, 3, height, width); None where it does not run."""
    try:
        with torch.no_grad():
            return model(pixel_values=image)
    except FAILURES as error:
        logger.debug("the model does not run: %s", error)
        return None


class Symmetry:
    """A trial of groups: exchanging their channels must leave all outputs as they are.

    The model is given values with which every parameter matters. Single precision is mostly enough for the comparison;
    where it is not, as in a deep model without norms, double precision decides.

    Args:
        image: one input, shape (1, 3, height, width); its size counts, its values do not.
    """

    def __init__(self, model: nn.Module, image: Tensor):
        self.model = copy_with_same_tensors(model)
        self.image = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
        self._known: dict[torch.dtype, tuple[Values, list[Tensor]]] = {}

    def holds(self, groups: list[Group]) -> bool:
        return any(self._holds(groups, dtype) for dtype in (torch.float32, torch.float64))

    def _holds(self, groups: list[Group], dtype: torch.dtype) -> bool:
        try:
            values, expected = self._unchanged(dtype)
            found = self._outputs(permuted(self.model, values, groups), dtype)
        except FAILURES as error:
            logger.debug("forward failed after exchanging channels: %s", error)
            return False
        pairs = zip(found, expected, strict=True)
        return all(bool(((one - other).abs() <= TOLERANCE * other.abs().max()).all()) for one, other in pairs)

    def _unchanged(self, dtype: torch.dtype) -> tuple[Values, list[Tensor]]:
        """Return the values before any exchange, and the outputs that they give."""
        if dtype not in self._known:
            values = scrambled(self.model, dtype)
            self._known[dtype] = values, self._outputs(values, dtype)
        return self._known[dtype]

    def _outputs(self, values: Values, dtype: torch.dtype) -> list[Tensor]:
        drop_caches(self.model)
        tensors = {
            f"{name}.{key}" if name else key: values[id(tensor)]
            for name, module in self.model.named_modules()
            for key, tensor in own_tensors(module)
        }
        inputs = {"pixel_values": self.image.to(dtype)}
        with torch.no_grad():
            said = functional_call(self.model, tensors, kwargs=inputs, tie_weights=False)
        return list(output_tensors(said).values())


def scrambled(model: nn.Module, dtype: torch.dtype) -> Values:
    """Return values for all parameters and buffers with which each of them matters: none is zero, none is tiny."""
    generator = torch.Generator().manual_seed(0)
    values = {}
    for module in model.modules():
        for key, tensor in own_tensors(module):
            value = values[id(tensor)] = tensor.detach()
            if not value.is_floating_point() or not value.numel():
                continue
            value = values[id(tensor)] = value.to(dtype)
            if key in module._non_persistent_buffers_set:
                continue
            rows = torch.rand(value.shape[:1], generator=generator) - (key != "running_var") / 2
            rest = torch.rand(value.shape[1:], generator=generator) - 0.5 if value.dim() > 1 else torch.ones(())
            rows = (rows.to(value) * (value.std(correction=0) + 0.05)).view(-1, *(1 for _ in rest.shape))
            values[id(tensor)] = torch.addcmul(value, rows, rest.to(value))
    return values


def permuted(model: nn.Module, values: Values, groups: list[Group]) -> Values:
    """Return the values of `model` with the units of each group in reverse order."""
    values = dict(values)
    for group in groups:
        for member in group.members:
            axis = member.axis
            place = id(getattr(model.get_submodule(axis.module), axis.tensor))
            order = np.arange(axis.size)
            order[member.indices.flatten()] = member.indices[::-1].flatten()
            values[place] = values[place].index_select(axis.dim, torch.from_numpy(order))
    return values
