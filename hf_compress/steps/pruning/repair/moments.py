"""Sums over samples, from which a layer's weights are solved."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 0.1  # of the mean second moment of the inputs
ROUNDING = 1e-12  # of the sum of those moments: less is what float32 makes of inputs that do not vary
TINY = 1e-12
AT_A_TIME = 2**24  # numbers of the systems of rows


class Moments:
    """The moments of what enters a layer, z, and of what its output lacks, r, by group of the layer.

    Inputs may vary by far less than their mean: sums are of what the first samples' means are taken from. Those of a
    batch are made in its own precision, and added in float64.

    Attributes:
        count: samples seen.
        energy: sum of the squares of r.
    """

    def __init__(self):
        self.count, self.energy = 0, 0.0
        self._origin: tuple[Tensor, ...] = ()
        self._sums: tuple[Tensor, ...] = ()

    def add(self, z: Tensor, r: Tensor) -> None:
        """Add samples: z has the shape (groups, samples, inputs), r (groups, samples, outputs)."""
        self._origin = self._origin or (z.mean(1, keepdim=True), r.mean(1, keepdim=True))
        self.count += z.shape[1]
        self.energy += float(r.square().sum(dtype=torch.float64))
        z, r = (x - origin for x, origin in zip((z, r), self._origin, strict=True))
        new = z.sum(1), r.sum(1), z.mT @ z, r.mT @ z
        self._sums = self._sums or tuple(torch.zeros_like(more, dtype=torch.float64) for more in new)
        for old, more in zip(self._sums, new, strict=True):
            old += more

    def means(self, centred: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the means of z, (groups, inputs), and r, and those of z z' and r z', around them or around zero."""
        z, r, zz, rz = (sums / self.count for sums in self._sums)
        zz -= z[:, :, None] * z[:, None]
        rz -= r[:, :, None] * z[:, None]
        z, r = (x + origin.squeeze(1).double() for x, origin in zip((z, r), self._origin, strict=True))
        if not centred:
            zz += z[:, :, None] * z[:, None]
            rz += r[:, :, None] * z[:, None]
        return z, r, zz, rz

    def solved(self, with_bias: bool, free: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the D and d that make the mean of |r - D z - d|^2 + ridge |D|^2 smallest.

        Args:
            with_bias: whether there may be a d; it is zero otherwise.
            free: which entries of D may differ from zero, shape (groups, outputs, inputs); None where all may.

        Returns:
            D (groups, outputs, inputs) and d (groups, outputs).
        """
        z, r, zz, rz = self.means(with_bias)
        diagonal = zz.diagonal(dim1=1, dim2=2)
        rounding = ROUNDING * (diagonal + z.square() if with_bias else diagonal).sum(1, keepdim=True)
        ridge = (RIDGE * diagonal.mean(1, keepdim=True)).maximum(rounding).clamp_min(TINY)
        diagonal += ridge  # in `zz`
        factor = torch.linalg.cholesky(zz)
        change = torch.cholesky_solve(rz.mT, factor).mT
        if free is not None and not bool(free.all()):
            change = _rows_solved(zz, rz, free, change, factor)
        bias = r - (change @ z[:, :, None]).squeeze(2) if with_bias else torch.zeros_like(r)
        return change, bias


def _rows_solved(zz: Tensor, rz: Tensor, free: Tensor, unbound: Tensor, factor: Tensor) -> Tensor:
    """Solve each output by its own free inputs: by those, or where they are most by what the others must not do."""
    few = 2 * free.sum(2, keepdim=True) <= free.shape[2]
    change = _solved_on(free & few, zz, rz)
    if not bool(few.all()):
        inverse = torch.cholesky_inverse(factor)
        change = torch.where(few, change, unbound - _solved_on(~free & ~few, inverse, unbound) @ inverse)
    return change.masked_fill(~free, 0)


def _solved_on(chosen: Tensor, matrix: Tensor, right: Tensor) -> Tensor:
    """Return the x, zero but where chosen, whose product with a symmetric matrix is `right` there, for each row.

    Rows with about as many chosen entries are solved together.

    Args:
        chosen: shape (groups, rows, size).
        matrix: shape (groups, size, size).
        right: shape (groups, rows, size).
    """
    counts, rows = chosen.sum(2).flatten().sort(descending=True, stable=True)
    counts, found, first = counts.tolist(), torch.zeros_like(right), 0
    while first < len(counts) and counts[first]:
        width = counts[first]
        some = rows[first : first + max(1, AT_A_TIME // width**2)]
        group, row = some // chosen.shape[1], some % chosen.shape[1]
        mine, indices = chosen[group, row].sort(dim=1, descending=True, stable=True)
        mine, indices = mine[:, :width], indices[:, :width]
        system = matrix[group[:, None, None], indices[:, :, None], indices[:, None]]
        system = torch.where(mine[:, :, None] & mine[:, None], system, torch.eye(width).to(system))
        wanted = torch.where(mine, right[group, row].gather(1, indices), 0)[:, :, None]
        solution = torch.cholesky_solve(wanted, torch.linalg.cholesky(system)).squeeze(2)
        found[group, row] = found[group, row].scatter(1, indices, solution)
        first += len(some)
    return found
