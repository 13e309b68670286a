"""Takes units of groups out of a model, in place, and checks that a group is what it seems to be."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from typing import Any

import numpy as np
import torch
from torch import nn

from hf_compress.ground.tensors import own_tensors
from hf_compress.steps.pruning.allocate.units import Plan
from hf_compress.steps.pruning.tracing.groups import LAYERS, Group
from hf_compress.steps.pruning.tracing.labels import Axis
from hf_compress.steps.pruning.tracing.trace import drop_caches

Attribute = tuple[str, str, int | None]
Kept = dict[tuple[str, str, int], np.ndarray]

HEAD_COUNT = re.compile(r"(^|_)n(um)?_(\w+_)?heads?$|^heads$|^all_head_size$")
WIDTHS = {
    "out_channels": 0,
    "out_features": 0,
    "in_features": 1,
    "num_features": 0,
    "num_channels": 0,
    "num_embeddings": 0,
    "embedding_dim": 1,
}


def remove_units(model: nn.Module, groups: list[Group], plan: Plan, attributes: dict[str, list[Attribute]]) -> Kept:
    """Remove units from the tensors of `model` and correct the attributes of its modules.

    Returns:
        The indices that are left, in ascending order, by module, tensor and dimension, where some went.

    Args:
        groups: groups of this very model, see `groups.find_groups`.
        plan: the units to remove, by the group's name.
        attributes: integers of modules that count the channels of a group, by its name: (module, attribute, index in
            the attribute's tuple or list or None).
    """
    gone: dict[tuple[str, str], dict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        units = plan.get(group.name)
        if not units:
            continue
        for member in group.members:
            axis = member.axis
            gone[axis.module, axis.tensor][axis.dim].append(member.indices[units].flatten())
        _count(model, group, len(units), head_counts(model, group) + attributes.get(group.name, []))
    owners = _owners(model)
    left: Kept = {}
    for (name, key), dims in gone.items():
        old = getattr(model.get_submodule(name), key)
        new = old.detach()
        for dim, indices in dims.items():
            kept = left[name, key, dim] = np.delete(np.arange(new.shape[dim]), np.concatenate(indices))
            new = new.index_select(dim, torch.from_numpy(kept).to(new.device))
        new = new.contiguous()
        if isinstance(old, nn.Parameter):
            new = nn.Parameter(new, requires_grad=old.requires_grad)
        for module, own_key in owners[id(old)]:
            setattr(module, own_key, new)
            _correct_widths(module, own_key, old.shape)
    drop_caches(model)
    return left


def kept_in_turn(first: Kept, then: Kept) -> Kept:
    """Return what is left of the model before `first` when units went twice."""
    return first | {place: first[place][indices] if place in first else indices for place, indices in then.items()}


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return the modules that hold each parameter and buffer, by its id, with its name there."""
    owners = defaultdict(list)
    for module in model.modules():
        for key, tensor in own_tensors(module):
            owners[id(tensor)].append((module, key))
    return owners


def _correct_widths(module: nn.Module, key: str, old: torch.Size) -> None:
    """Bring the numbers that torch's layers keep beside their tensors in line with the weight's new shape."""
    if key != "weight":
        return
    new = module.weight.shape
    if isinstance(module, nn.modules.conv._ConvNd):
        module.groups = module.groups * new[0] // old[0] if module.groups > 1 else 1
        module.out_channels, module.in_channels = new[0], new[1] * module.groups
        return
    if isinstance(module, nn.GroupNorm) and module.num_groups > 1:
        module.num_groups = module.num_groups * new[0] // old[0]
    if isinstance(getattr(module, "normalized_shape", None), (tuple, list, torch.Size)):
        module.normalized_shape = tuple(new)
    for attribute, dim in WIDTHS.items():
        if getattr(module, attribute, None) is not None and dim < len(new):
            setattr(module, attribute, new[dim])
    if hasattr(module, "nf"):  # transformers' Conv1D
        module.nx, module.nf = new


def head_counts(model: nn.Module, group: Group) -> list[Attribute]:
    """Return the attributes that count heads or their channels by name, in the modules around a group of heads."""
    places = [
        place
        for part in group.parts or (group,)
        for place in _counters(model, part)
        if part.unit > 1 and place[0] in part.holders and HEAD_COUNT.search(place[1])
    ]
    return list(dict.fromkeys(places))


def width_attributes(model: nn.Module, group: Group) -> list[Attribute]:
    """Return other attributes that could give the number of channels or heads of a group, by their value."""
    by_name = head_counts(model, group)
    return [place for place in _counters(model, group) if place not in by_name]


def _counters(model: nn.Module, group: Group) -> dict[Attribute, int]:
    """Return the attributes that may count what a group has, with how much of it one unit takes.

    Those of the modules that hold it, and of the modules around these where it has blocks.
    """
    if not group.parts:
        return _counting(model, group, _sizes(group))
    shares = [(part.units // group.units, _counters(model, part)) for part in group.parts]
    by_part = {place: share * taken for share, counters in shares for place, taken in counters.items()}
    return _counting(model, group, _shared_sizes(group)) | by_part


def _counting(model: nn.Module, group: Group, sizes: dict[int, int]) -> dict[Attribute, int]:
    around = dict.fromkeys(name.rpartition(".")[0] for name in group.holders) if group.unit > 1 else {}
    return {
        (name, attribute, index): sizes[value]
        for name in dict.fromkeys((*group.holders, *around))
        if not isinstance(module := model.get_submodule(name), LAYERS)
        for attribute, content in vars(module).items()
        for index, value in _integers(content)
        if value in sizes and (group.unit > 1 or not HEAD_COUNT.search(attribute))
    }


def _integers(content: Any) -> list[tuple[int | None, int]]:
    """Return the integers of an attribute, with their places in a tuple or list."""
    numbers = enumerate(content) if isinstance(content, (tuple, list)) else [(None, content)]
    return [(index, number) for index, number in numbers if type(number) is int]


def _sizes(group: Group) -> dict[int, int]:
    """Return the sizes that the group as a whole has, each with how much of it one unit takes."""
    whole = [member for member in group.members if member.indices.size == member.axis.size]
    return {member.axis.size: member.indices.shape[1] for member in whole} | {group.units: 1}


def _shared_sizes(group: Group) -> dict[int, int]:
    """Return the sizes of what the parts of a group make up together, each with how much of it one unit takes."""
    taken: Counter[Axis] = Counter()
    for member in group.members:
        taken[member.axis] += member.indices.shape[1]
    shared = {member.axis for member in group.members if taken[member.axis] > member.indices.shape[1]}
    return {axis.size: taken[axis] for axis in shared if taken[axis] * group.units == axis.size}


def _count(model: nn.Module, group: Group, units: int, attributes: list[Attribute]) -> None:
    taken = _counters(model, group)
    for place in attributes:
        name, attribute, index = place
        module = model.get_submodule(name)
        numbers = getattr(module, attribute)
        if index is None:
            setattr(module, attribute, numbers - taken[place] * units)
        else:
            fewer = [number - taken[place] * units * (at == index) for at, number in enumerate(numbers)]
            setattr(module, attribute, type(numbers)(fewer))
