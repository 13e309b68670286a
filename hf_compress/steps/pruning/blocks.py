"""Patterns of pruning: which entries of a weight become zero together, or which of a few neighbours.

A weight of shape (out, in) or (out, in, height, width) is looked at as a matrix of shape (out, height * width * in),
input channels fastest, as the kernels of sparse libraries read it.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from hf_compress.steps.pruning.allocate.masks import keep_masks, pattern_mask


@dataclass(frozen=True)
class Blocks:
    """Blocks of `height` x `width` entries of the matrix that become zero together; None is the whole side.

    `Blocks(4, 1)` takes four outputs at a time, `Blocks(None, 1)` whole columns, `Blocks(1, 1)` single entries.
    """

    height: int | None
    width: int | None

    def fits(self, weight: Tensor) -> bool:
        """Tell whether the weight can be cut into whole blocks."""
        matrix = _matrix(weight)
        height, width = self._size(weight)
        return matrix.shape[0] % height == 0 and matrix.shape[1] % width == 0

    def reduce(self, scores: Tensor) -> Tensor:
        """Return the mean score of each block."""
        if self == Blocks(1, 1):
            return scores
        height, width = self._size(scores)
        rows, columns = _matrix(scores).shape
        return _matrix(scores).reshape(rows // height, height, columns // width, width).mean(dim=(1, 3))

    def expand(self, mask: Tensor, scores: Tensor) -> Tensor:
        """Return the mask of the entries, in the shape of `scores`."""
        if self == Blocks(1, 1):
            return mask
        height, width = self._size(scores)
        return _unmatrix(mask.repeat_interleave(height, dim=0).repeat_interleave(width, dim=1), scores)

    def units(self, amount: float) -> float:
        """Return the fraction of the blocks that go when the fraction `amount` of the entries goes."""
        return amount

    def _size(self, weight: Tensor) -> tuple[int, int]:
        return self.height or weight.shape[0], self.width or weight.shape[1]


@dataclass(frozen=True)
class LowestInGroup:
    """The `n` lowest of every `m` neighbours in a row become zero: `LowestInGroup(2, 4)` is 2:4 sparsity."""

    n: int
    m: int

    def fits(self, weight: Tensor) -> bool:
        """Tell whether the rows can be cut into whole groups."""
        return _matrix(weight).shape[1] % self.m == 0

    def reduce(self, scores: Tensor) -> Tensor:
        """Return the mean of the entries that each group would lose."""
        return self._groups(scores).topk(self.n, dim=2, largest=False).values.mean(dim=2)

    def expand(self, mask: Tensor, scores: Tensor) -> Tensor:
        """Return the mask of the entries, in the shape of `scores`."""
        whole = _unmatrix(mask.repeat_interleave(self.m, dim=1), scores)
        return whole | pattern_mask(scores, self.m - self.n, self.m)

    def units(self, amount: float) -> float:
        """Return the fraction of the groups that must lose entries so that the fraction `amount` of all is gone."""
        return min(1.0, amount * self.m / self.n)

    def _groups(self, scores: Tensor) -> Tensor:
        matrix = _matrix(scores)
        return matrix.reshape(matrix.shape[0], -1, self.m)


Pattern = Blocks | LowestInGroup


def pattern_masks(
    scores: dict[str, Tensor], pattern: Pattern, scope: str, amount: float, floor: float = 0.0
) -> dict[str, Tensor]:
    """Return, for every layer, False at the entries to prune, in the shape of its scores.

    Args:
        scores: importance of each entry of the layers, each of which fits the pattern.
        scope: compare in a `layer`, or across all (`global`).
        amount: fraction of the entries that goes; a pattern n:m can give at most n/m.
        floor: fraction of the blocks, or groups, of each layer that stays whole.
    """
    units = keep_masks(
        {name: pattern.reduce(values) for name, values in scores.items()}, scope, pattern.units(amount), floor
    )
    return {name: pattern.expand(units[name], values) for name, values in scores.items()}


def _matrix(weight: Tensor) -> Tensor:
    return weight.movedim(1, -1).flatten(1)


def _unmatrix(matrix: Tensor, like: Tensor) -> Tensor:
    rows, inputs, *kernel = like.shape
    return matrix.reshape(rows, *kernel, inputs).movedim(-1, 1)
