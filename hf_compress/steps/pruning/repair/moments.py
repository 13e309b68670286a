"""Sums over samples, from which a layer's weights are solved."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 0.1  # of the mean second moment of the inputs
ROUNDING = 1e-12  # of the sum of those moments: less is what float32 makes of inputs that do not vary
TINY = 1e-12


class Moments:
    """The moments of what enters a layer, z, and of what its output lacks, r, by group of the layer, in float64.

    Attributes:
        count: samples seen.
        energy: sum of the squares of r.
    """

    def __init__(self):
        self.count, self.energy = 0, 0.0
        self._sums: tuple[Tensor, ...] = ()

    def add(self, z: Tensor, r: Tensor) -> None:
        """Add samples: z has the shape (groups, samples, inputs), r (groups, samples, outputs)."""
        z, r = z.double(), r.double()  # inputs may vary by far less than their mean
        self.count += z.shape[1]
        self.energy += float(r.square().sum())
        new = (z.sum(1), r.sum(1), z.mT @ z, r.mT @ z)
        self._sums = tuple(old.add_(more) for old, more in zip(self._sums, new, strict=True)) if self._sums else new

    def solved(self, with_bias: bool, free: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the D and d that make the mean of |r - D z - d|^2 + ridge |D|^2 smallest.

        Args:
            with_bias: whether there may be a d; it is zero otherwise.
            free: which entries of D may differ from zero, shape (groups, outputs, inputs); None where all may.

        Returns:
            D (groups, outputs, inputs) and d (groups, outputs).
        """
        z, r, zz, rz = (sums / self.count for sums in self._sums)
        rounding = ROUNDING * zz.diagonal(dim1=1, dim2=2).sum(1, keepdim=True)
        if with_bias:
            zz, rz = zz - z[:, :, None] * z[:, None], rz - r[:, :, None] * z[:, None]
        diagonal = zz.diagonal(dim1=1, dim2=2)
        ridge = (RIDGE * diagonal.mean(1, keepdim=True)).maximum(rounding).clamp_min(TINY).expand_as(diagonal)
        zz = zz + torch.diag_embed(ridge)
        if free is None or bool(free.all()):
            change = torch.cholesky_solve(rz.mT, torch.linalg.cholesky(zz)).mT
        else:
            change = _rows_solved(zz.cpu(), rz.cpu(), free.cpu()).to(zz.device)
        bias = r - (change @ z[:, :, None]).squeeze(2) if with_bias else torch.zeros_like(r)
        return change, bias


def _rows_solved(zz: Tensor, rz: Tensor, free: Tensor) -> Tensor:
    """Solve each output by its own free inputs."""
    change = torch.zeros_like(rz)
    for group, row in free.any(dim=2).nonzero().tolist():
        chosen = free[group, row].nonzero().squeeze(1)
        factor = torch.linalg.cholesky(zz[group][chosen][:, chosen])
        change[group, row, chosen] = torch.cholesky_solve(rz[group, row, chosen][:, None], factor).squeeze(1)
    return change
