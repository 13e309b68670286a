"""Labels of channels: what tensors carry through a forward pass, and how those that meet are linked.

Each dimension of a parameter gets a run of labels, one an index. A tensor carries label arrays, one for each dimension
that comes from a parameter: of the tensor's rank, with size 1 where the label does not change. Operations link labels
(an addition links the channels it adds, a product those it sums over), and labels that are linked must be removed
together. Labels that meet something whose width cannot change become fixed, with the reason. So attention heads come
out as blocks (a product over the width of a head ties it), and so do the groups of grouped convolutions and norms.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from hf_compress.ground.tensors import own_tensors

FIXED = 0.0


@dataclass(frozen=True)
class Axis:
    """One dimension of one parameter or buffer; its labels are `first .. first + size - 1`."""

    module: str
    tensor: str
    dim: int
    size: int
    first: int


@dataclass
class Links:
    """What a trace found.

    Attributes:
        axes: the labelled dimensions, in the order of their use.
        pairs: two label tensors of one shape each: the labels at one place belong together.
        fixed: labels that must stay, and why.
        reshapes: modules that spread labelled channels over several dimensions, or split them, by sizes of their own.
    """

    axes: list[Axis] = field(default_factory=list)
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    fixed: list[tuple[Tensor, str]] = field(default_factory=list)
    reshapes: list[tuple[Tensor, str]] = field(default_factory=list)


def varying(labels: Tensor) -> set[int]:
    """Return the dimensions along which the label changes."""
    return {dim for dim, size in enumerate(labels.shape) if size > 1}


def is_constant(values: Tensor, dim: int) -> bool:
    return bool((values == values.narrow(dim, 0, 1)).all())


def shrunk(labels: Tensor) -> Tensor:
    """Shrink every dimension along which the labels are equal to size 1."""
    for dim, size in enumerate(labels.shape):
        if size > 1 and is_constant(labels, dim):
            labels = labels.narrow(dim, 0, 1)
    return labels


class Follower:
    """The labels of a forward pass so far: which tensor carries which, and what was linked."""

    def __init__(self, model: nn.Module):
        self.links = Links()
        self.known: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.next_label = 1
        self.stack: list[str] = []
        self.names: dict[int, tuple[str, str]] = {}
        self.computed: set[int] = set()
        for name, module in model.named_modules():
            for key, tensor in own_tensors(module):
                if tensor.is_floating_point():
                    self.names[id(tensor)] = (name, key)
                    if key in module._non_persistent_buffers_set:
                        self.computed.add(id(tensor))

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Know which module is running."""

        def leave(*_):
            self.stack.pop()

        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: self.stack.append(name)))
            handles.append(module.register_forward_hook(leave))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def module(self) -> str:
        return self.stack[-1] if self.stack else ""

    def labels_of(self, tensor: Tensor) -> list[Tensor]:
        """Return the label arrays of a tensor; a parameter gets its own when it is first met.

        What a module computes for itself has labels where it is the same all along, as a bias of zeros is.
        """
        if tensor not in self.known:
            self.known[tensor] = self._new_labels(tensor) if id(tensor) in self.names else []
        return self.known[tensor]

    def _new_labels(self, tensor: Tensor) -> list[Tensor]:
        module, key = self.names[id(tensor)]
        arrays = []
        for dim, size in enumerate(tensor.shape):
            if size < 2 or (id(tensor) in self.computed and not is_constant(tensor, dim)):
                continue
            self.links.axes.append(Axis(module, key, dim, size, self.next_label))
            shape = [size if d == dim else 1 for d in range(tensor.dim())]
            labels = torch.arange(self.next_label, self.next_label + size, dtype=torch.float64).view(shape)
            self.next_label += size
            arrays.append(labels)
        return arrays

    def link(self, one: Tensor, other: Tensor) -> None:
        one, other = torch.broadcast_tensors(one, other)
        self.links.pairs.append((one.flatten(), other.flatten()))

    def fix(self, labels: Tensor, reason: str) -> None:
        self.links.fixed.append((labels.flatten(), reason))

    def tie(self, labels: Tensor, dim: int) -> Tensor:
        """Link the labels along `dim` with the first, and return that."""
        first = labels.narrow(dim, 0, 1)
        if labels.shape[dim] > 1:
            self.link(labels, first)
        return first

    def combine(
        self, operands: list[tuple[torch.Size, list[Tensor]]], summed: set[int], what: str, keep_summed: bool = False
    ) -> list[Tensor]:
        """Link the labels of operands that meet along common dimensions.

        Where an operand has a width without labels, labels that vary along other dimensions too are tied along it.

        Args:
            operands: shape and label arrays of each, all of one rank.
            summed: dimensions that the operation sums over; they have size 1 in the result.
            what: the operation, for the reason where labels meet a width without labels.
            keep_summed: labels that vary along `summed` alone must stay.

        Returns:
            The label arrays of the result.
        """
        free: list[Tensor] = []
        for position, (_, arrays) in enumerate(operands):
            for labels in arrays:
                dims = varying(labels)
                stays = keep_summed and dims <= summed
                for other, (shape, others) in enumerate(operands):
                    wide = {dim for dim in dims if shape[dim] > 1}
                    if other == position or not wide:
                        continue
                    partners = [candidate for candidate in others if varying(candidate) & wide]
                    fixed = wide - set().union(*(varying(partner) for partner in partners))
                    stays |= fixed == dims
                    for dim in fixed:
                        self.tie(labels, dim)
                    if other > position:
                        for partner in partners:
                            self.link(labels, partner)
                if stays:
                    self.fix(labels, f"meets a fixed width in '{self.module}' ({what})")
                else:
                    free.append(labels)
        return self.reduce(self._distinct(free), summed)

    def reduce(self, arrays: list[Tensor], dims: set[int]) -> list[Tensor]:
        """Return the labels after a sum over `dims`; what varies along others too is tied along them."""
        left = []
        for labels in arrays:
            if not varying(labels) - dims:
                continue
            for dim in varying(labels) & dims:
                labels = self.tie(labels, dim)
            left.append(labels)
        return left

    def _distinct(self, arrays: list[Tensor]) -> list[Tensor]:
        """Leave out arrays whose dimensions another one covers: they are linked with it."""
        kept: list[Tensor] = []
        for labels in sorted(arrays, key=lambda labels: -len(varying(labels))):
            if not any(varying(labels) <= varying(other) for other in kept):
                kept.append(labels)
        return kept
