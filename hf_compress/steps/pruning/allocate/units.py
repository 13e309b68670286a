"""Which units of which group go: scores and an amount in, a plan out. Knows nothing of models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_compress.steps.pruning.allocate.shares import shares_for_budget
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.score.registry import CRITERIA

Plan = dict[str, list[int]]


@dataclass
class Ranked:
    """A group as allocation sees it.

    Attributes:
        name: of the group.
        scores: importance of each unit, shape (units,).
        unit: channels a unit takes.
        unpruned: channels of the group in the unpruned model.
        cost: multiply-accumulates, or milliseconds, that a unit takes.
    """

    name: str
    scores: Tensor
    unit: int
    unpruned: int
    cost: float = 1.0

    @property
    def width(self) -> int:
        return len(self.scores) * self.unit


def allocate(groups: list[Ranked], amount: float, config: PruneSection) -> Plan:
    """Return the units to remove, by group, so that the fraction `amount` of the unpruned channels is gone.

    With scope `layer` each group loses that fraction; with `global` the groups compete, and with `cost` or `damage` by
    importance per multiply-accumulate or millisecond; with a measured sensitivity each loses what it bears.
    """
    shares = {group.name: amount for group in groups}
    if config.sensitivity:
        shares = shares_for_budget(config.sensitivity, {group.name: group.unpruned for group in groups}, amount)
    elif config.scope != "layer":
        shares = _global_shares(groups, amount, config)
    removed = {}
    for group in groups:
        surplus = group.width - kept_width(group.unpruned, group.unit, shares[group.name], config)
        if surplus > 0:
            removed[group.name] = least_important(group.scores, surplus // group.unit)
    return removed


def least_important(scores: Tensor, count: int) -> list[int]:
    """Return the indices of the `count` lowest scores, the first ones among equals."""
    return scores.argsort(stable=True)[:count].tolist()


def kept_width(width: int, unit: int, share: float, config: PruneSection) -> int:
    """Return the channels of `width` that stay when `share` goes: whole units, a multiple of `round_to` next to it.

    Never under the floor.
    """
    step = math.lcm(config.round_to, unit)
    least = max(1, config.floor * width)
    kept = max(step, round(width * (1 - share) / step) * step)
    while kept < least:
        kept += step
    return min(width, kept)


def _global_shares(groups: list[Ranked], amount: float, config: PruneSection) -> dict[str, float]:
    """Rank the units of all groups, the first ones lower among equals.

    The best of each group, which the floor keeps, are out of the competition. Scores that do not compare across groups
    count relative to their group's mean.
    """
    compare = config.scope == "damage" or CRITERIA.get(config.importance).compares
    gone = sum(group.unpruned - group.width for group in groups)
    wanted = round(amount * sum(group.unpruned for group in groups)) - gone
    competing = []
    for group in groups:
        free = len(group.scores) - kept_width(group.unpruned, group.unit, 1.0, config) // group.unit
        scores = group.scores if compare else group.scores / group.scores.abs().mean().clamp_min(1e-12)
        scores = scores / group.cost if config.counts_cost else scores
        competing.append(scores.sort().values[: max(0, free)])
    owners = torch.arange(len(groups)).repeat_interleave(torch.tensor([len(scores) for scores in competing]))
    owners = owners[torch.cat(competing).argsort(stable=True)]
    units = torch.tensor([group.unit for group in groups])[owners]
    lost = owners[units.cumsum(0) - units < wanted].bincount(minlength=len(groups)).tolist()
    return {
        group.name: 1 - (group.width - count * group.unit) / group.unpruned
        for group, count in zip(groups, lost, strict=True)
    }
