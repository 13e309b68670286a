"""The numbers in an architecture's config that set the widths of its layers: found by changing them."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

Place = tuple[str, int | None]
Sizes = dict[str, torch.Size]
REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, ArithmeticError, AssertionError)


@dataclass(frozen=True)
class Knob:
    """Numbers of a config that are changed together because they are one width, such as the ends of a residual path.

    Attributes:
        places: (field, index in the field's list or None).
        value: what stands there in the unpruned model.
    """

    places: tuple[Place, ...]
    value: int | float

    def __str__(self) -> str:
        return " = ".join(field if index is None else f"{field}[{index}]" for field, index in self.places)

    def turn(self, config: PretrainedConfig, value: int | float) -> None:
        """Write another value into `config`."""
        for field, index in self.places:
            if index is None:
                setattr(config, field, value)
            else:
                numbers = list(getattr(config, field))
                numbers[index] = value
                setattr(config, field, numbers)


def numbers(config: PretrainedConfig) -> list[Knob]:
    """Return every number in the config that could be a width or scale one."""
    found = []
    for field, content in config.to_dict().items():
        items = enumerate(content) if isinstance(content, (list, tuple)) else [(None, content)]
        found += [
            Knob(((field, index),), value)
            for index, value in items
            if (type(value) is int and value > 1) or (type(value) is float and value > 0)
        ]
    return found


def built_shapes(model: PreTrainedModel, config: PretrainedConfig) -> Sizes | None:
    """Return the shapes of what `config` builds, without memory for the weights; None where it builds nothing."""
    try:
        with torch.device("meta"):
            return tensor_shapes(type(model)(copy.deepcopy(config)))
    except REFUSALS:
        return None


def tensor_shapes(model: torch.nn.Module) -> Sizes:
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def rebuilt(model: PreTrainedModel) -> PreTrainedModel:
    """Return what a process without this package makes of the model; RuntimeError: the config builds other shapes."""
    with torch.random.fork_rng(devices=[]):
        twin = type(model)(copy.deepcopy(model.config))
    twin.load_state_dict(model.state_dict())
    return twin.to(model.dtype).eval()
