"""Groups of units that can go from a model: channels, found by `trace`, or the entries of one weight."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from hf_compress.steps.pruning.tracing.labels import FIXED, Axis, Links
from hf_compress.steps.pruning.tracing.trace import trace

Modules = dict[str, nn.Module]
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, Conv1D)
UNREAD = "no layer reads its channels"
SINGLE = "its channels form a single block, such as one attention head"


@dataclass(frozen=True)
class Member:
    """A tensor dimension that loses indices with the group; or a tensor, each entry of which is a unit.

    Attributes:
        indices: the indices of each unit, shape (units, indices a unit); None where the entries are the units.
        reads: whether the tensor is the weight of a layer that reads the units: a unit that none reads is gone.
    """

    axis: Axis
    indices: np.ndarray | None
    reads: bool = True

    @property
    def dim(self) -> int | None:
        """The dimension; None where the entries are the units."""
        return None if self.indices is None else self.axis.dim

    @property
    def name(self) -> str:
        """Name of the parameter or buffer in the model."""
        return f"{self.axis.module}.{self.axis.tensor}".lstrip(".")

    def tensor(self, model: nn.Module) -> Tensor:
        return getattr(model.get_submodule(self.axis.module), self.axis.tensor)

    def sums(self, values: Tensor) -> Tensor:
        """Return the sum of `values`, which have the tensor's shape, over each unit, shape (units,)."""
        if self.indices is None:
            return values.flatten()
        slices = values.transpose(0, self.dim).reshape(self.axis.size, -1).sum(dim=1)
        return slices[torch.from_numpy(self.indices)].sum(dim=1)


@dataclass(eq=False)
class Group:
    """Units that can be removed one by one: channels, or blocks of them such as attention heads.

    Attributes:
        name: the first layer that makes the channels.
        members: every tensor dimension in which the units live.
        makers: layers whose output channels they are.
        holders: modules that reshape the channels or hold a layer of theirs, and may know their number.
        unit: channels of `name` that one unit takes.
        pattern: (n, m) where, of entries of a weight, n of each m neighbours along its inputs stay.
        parts: the groups that were joined; empty where none were.
    """

    name: str
    members: list[Member]
    makers: list[str]
    holders: list[str]
    unit: int
    pattern: tuple[int, int] | None = None
    parts: tuple[Group, ...] = ()

    @property
    def is_weight(self) -> bool:
        """Whether the units are entries or slices of one weight, not channels."""
        return self.name == self.members[0].name

    @property
    def units(self) -> int:
        first = self.members[0]
        return first.axis.size if first.indices is None else len(first.indices)

    @property
    def width(self) -> int:
        """Number of channels."""
        return self.units * self.unit


def join(groups: list[Group]) -> Group:
    """Return one group whose units take as many neighbouring units of each of `groups` as there are for each of them.

    There are as many as divide all: an embedding of 192 channels and three heads make three units.
    """
    first = groups[0]
    units = math.gcd(*(group.units for group in groups))
    return Group(
        first.name,
        [replace(m, indices=m.indices.reshape(units, -1)) for group in groups for m in group.members],
        list(dict.fromkeys(maker for group in groups for maker in group.makers)),
        sorted({module for group in groups for module in group.holders}),
        first.width // units,
        parts=tuple(groups),
    )


def group_of_weight(name: str, weight: Tensor, dim: int | None) -> Group:
    """Return a group of one weight alone, whose units are its entries, or its slices along `dim`."""
    module, _, tensor = name.rpartition(".")
    axis = Axis(module, tensor, dim or 0, weight.numel() if dim is None else weight.shape[dim], 0)
    return Group(name, [Member(axis, None if dim is None else np.arange(axis.size)[:, None])], [module], [], 1)


def find_groups(model: PreTrainedModel, image: Tensor) -> tuple[list[Group], dict[str, str]]:
    """Return the groups of `model`, and the layers that are in none, with the reason.

    Args:
        image: one input, shape (1, 3, height, width).
    """
    links = trace(model, image)
    if not links.axes:
        return [], {}
    modules = dict(model.named_modules())
    component = _components(links)
    kind, axes_of = _kinds(links, component)
    free = np.ones(len(kind), dtype=bool)
    why: dict[str, str] = {}
    for labels, reason in links.fixed:
        parts = _parts(labels, component)
        for found in set(kind[parts[free[parts]]]):
            for maker in _makers(modules, axes_of[found]):
                why.setdefault(maker, reason)
        free[parts] = False
    holders: dict[int, set[str]] = defaultdict(set)
    for labels, module in links.reshapes:
        parts = _parts(labels, component)
        for found in set(kind[parts[free[parts]]]):
            holders[found].add(module)

    groups: list[Group] = []
    for found in dict.fromkeys(kind[free].tolist()):
        axes, parts = axes_of[found], np.flatnonzero(free & (kind == found))
        makers = _makers(modules, axes)
        reason = "" if any(_reads(modules, axis) for axis in axes) else UNREAD
        reason = reason or ("" if len(parts) > 1 else SINGLE)
        if reason:
            why = dict.fromkeys(makers, reason) | why
        elif makers:
            members = [Member(axis, _indices(axis, component, parts), _reads(modules, axis)) for axis in axes]
            around = holders[found] | {
                axis.module.rpartition(".")[0] for axis in axes if is_layer_weight(modules[axis.module], axis)
            }
            unit, lead = _lead(modules, members, makers)
            groups.append(Group(_free_name(lead, groups), members, makers, sorted(around), unit))
    grouped = {maker for group in groups for maker in group.makers}
    return groups, {layer: reason for layer, reason in why.items() if layer not in grouped}


def _components(links: Links) -> np.ndarray:
    """Return the component of each label: labels of one component are removed together."""
    size = links.axes[-1].first + links.axes[-1].size
    one = torch.cat([torch.zeros(0), *(pair[0] for pair in links.pairs)]).long().numpy()
    other = torch.cat([torch.zeros(0), *(pair[1] for pair in links.pairs)]).long().numpy()
    for labels, partners in ((one, other), (other, one)):
        links.fixed.append((torch.from_numpy(labels[partners == FIXED]), "joins channels of fixed width"))
    real = (one != FIXED) & (other != FIXED)
    graph = coo_array((np.ones(real.sum(), dtype=np.int8), (one[real], other[real])), shape=(size, size))
    return connected_components(graph, directed=False)[1]


def _parts(labels: Tensor, component: np.ndarray) -> np.ndarray:
    return np.unique(component[labels[labels != FIXED].long().numpy()])


def _kinds(links: Links, component: np.ndarray) -> tuple[np.ndarray, list[tuple[Axis, ...]]]:
    """Return the kind of each component, and the axes of each kind.

    Components of one kind live on the same axes, with as many indices on each.
    """
    kind = np.zeros(component.max() + 1, dtype=np.int64)
    axes_of: list[tuple[Axis, ...]] = [()]
    for axis in links.axes:
        parts, counts = np.unique(_on(axis, component), return_counts=True)
        _, first, place = np.unique(kind[parts] * (axis.size + 1) + counts, return_index=True, return_inverse=True)
        new = [(*axes_of[old], axis) for old in kind[parts[first]]]
        kind[parts] = len(axes_of) + place
        axes_of += new
    return kind, axes_of


def _on(axis: Axis, component: np.ndarray) -> np.ndarray:
    return component[axis.first : axis.first + axis.size]


def _indices(axis: Axis, component: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the indices of `axis` at which each of `parts` lives, shape (parts, indices a part); parts ascend."""
    order = np.argsort(_on(axis, component), kind="stable")
    return order[np.isin(_on(axis, component)[order], parts)].reshape(len(parts), -1)


def maker_dim(layer: nn.Module) -> int:
    """Return the dimension of a layer's weight in which the channels are that it makes."""
    return 1 if isinstance(layer, Conv1D) else 0


def is_layer_weight(module: nn.Module, axis: Axis) -> bool:
    """Return whether an axis of `module` is one of a layer's weight, which reads channels and makes others."""
    return axis.tensor == "weight" and isinstance(module, LAYERS)


def _makes(modules: Modules, axis: Axis) -> bool:
    return is_layer_weight(modules[axis.module], axis) and axis.dim == maker_dim(modules[axis.module])


def _makers(modules: Modules, axes: tuple[Axis, ...]) -> list[str]:
    """Return the layers that make the channels of `axes`, in the order of the model."""
    makers = {axis.module for axis in axes if _makes(modules, axis)}
    return [name for name in modules if name in makers]


def _reads(modules: Modules, axis: Axis) -> bool:
    return is_layer_weight(modules[axis.module], axis) and axis.dim == 1 - maker_dim(modules[axis.module])


def _lead(modules: Modules, members: list[Member], makers: list[str]) -> tuple[int, str]:
    """Return the first of the layers that give a unit the most channels, and how many."""
    made = {m.axis.module: m.indices.shape[1] for m in members if _makes(modules, m.axis)}
    unit = max(made.values())
    return unit, next(maker for maker in makers if made[maker] == unit)


def _free_name(lead: str, groups: list[Group]) -> str:
    """Name a group by its leading layer; another part of the same layer's channels gets a number."""
    taken = {group.name for group in groups}
    numbered = (lead if number == 1 else f"{lead}#{number}" for number in range(1, len(groups) + 2))
    return next(name for name in numbered if name not in taken)
