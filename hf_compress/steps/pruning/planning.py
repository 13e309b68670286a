"""Which units of which group go: importance and budget in, a plan out. Knows nothing of models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_compress.steps.pruning.config import PruneConfig
from hf_compress.steps.pruning.shares import shares_for_budget

Plan = dict[str, list[int]]


@dataclass
class Candidates:
    """A group as the plan sees it.

    Attributes:
        name: of the group.
        scores: importance of each unit, shape (units,).
        unit: channels a unit takes.
        unpruned: channels of the group in the unpruned model.
    """

    name: str
    scores: Tensor
    unit: int
    unpruned: int

    @property
    def width(self) -> int:
        return len(self.scores) * self.unit


def plan(groups: list[Candidates], amount: float, config: PruneConfig) -> Plan:
    """Return the units to remove, by group, so that the fraction `amount` of the unpruned channels is gone.

    With scope `layer` each group loses that fraction; with `global` the groups compete; with a measured sensitivity
    each loses what it bears.
    """
    shares = {group.name: amount for group in groups}
    if config.sensitivity:
        shares = shares_for_budget(config.sensitivity, {group.name: group.unpruned for group in groups}, amount)
    elif config.scope == "global":
        shares = _global_shares(groups, amount)
    removed = {}
    for group in groups:
        surplus = group.width - kept_width(group.unpruned, group.unit, shares[group.name], config)
        if surplus > 0:
            least = torch.topk(group.scores, k=surplus // group.unit, largest=False)
            removed[group.name] = least.indices.tolist()
    return removed


def kept_width(width: int, unit: int, share: float, config: PruneConfig) -> int:
    """Return the channels of `width` that stay when `share` goes: whole units, a multiple of `round_to` next to it.

    Never under the floor.
    """
    step = math.lcm(config.round_to, unit)
    least = max(1, config.floor * width)
    kept = max(step, round(width * (1 - share) / step) * step)
    while kept < least:
        kept += step
    return min(width, kept)


def _global_shares(groups: list[Candidates], amount: float) -> dict[str, float]:
    """Rank the units of all groups by importance relative to their group's mean."""
    relative = [group.scores / group.scores.mean().clamp_min(1e-12) for group in groups]
    gone = sum(group.unpruned - group.width for group in groups)
    wanted = round(amount * sum(group.unpruned for group in groups)) - gone
    if wanted <= 0:
        return {group.name: 1 - group.width / group.unpruned for group in groups}
    scores, order = torch.cat(relative).sort()
    channels = torch.cat([torch.full((len(group.scores),), group.unit) for group in groups])[order].cumsum(0)
    threshold = scores[min(int((channels < wanted).sum()), len(scores) - 1)]
    return {
        group.name: 1 - float((values > threshold).sum()) * group.unit / group.unpruned
        for group, values in zip(groups, relative, strict=True)
    }
