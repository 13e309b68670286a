"""Channel pruning: channels and attention heads are removed from a model, which becomes smaller."""

from __future__ import annotations

import logging

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_compress.ground.errors import DoesNotRun, RunError
from hf_compress.ground.looking import twin
from hf_compress.ground.tensors import copy_with_same_tensors, use_channels_last
from hf_compress.steps.pruning.allocate.costs import unit_macs
from hf_compress.steps.pruning.allocate.units import Plan, Ranked, allocate, kept_width
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.breaking import where_it_breaks
from hf_compress.steps.pruning.remove.pruner import Pruner
from hf_compress.steps.pruning.remove.removal import Attribute, Kept, remove_units, width_attributes
from hf_compress.steps.pruning.remove.symmetry import FAILURES, Symmetry, tried
from hf_compress.steps.pruning.remove.ties import are_twins, tied
from hf_compress.steps.pruning.score.scoring import Scores
from hf_compress.steps.pruning.timing import Stopwatch
from hf_compress.steps.pruning.tracing.groups import Group, Member, find_groups, join

logger = logging.getLogger(__name__)
TRIAL_SIDE = 64  # pixels
UNORDERED = "the model's output depends on the order of its channels"
BREAKS = "the model does not run without some of its channels"


class ChannelPruner(Pruner):
    """Removes channels of one model and of copies of it.

    A group of channels is trusted only when it passes two trials on copies: exchanging its channels leaves the logits
    as they are, and without some of them the model still runs. Groups that fail are protected, the others are pruned.

    Args:
        model: unpruned model; widths and amounts refer to it.
        image: one input, shape (1, 3, height, width).
        exclude: names of modules to leave alone.

    Attributes:
        protected: layers whose channels stay, with the reason.
        widths: channels of each group in the unpruned model.
        milliseconds: of a unit of each group, for `budget: latency`; the MACs count where they were not measured.
    """

    milliseconds: dict[str, float] | None = None

    def __init__(self, model: PreTrainedModel, image: Tensor, config: PruneSection, exclude: set[str]):
        self.image = image
        self.config = config
        self.attributes: dict[str, list[Attribute]] = {}
        self.joint: dict[str, dict[str, int]] = {}
        model = twin(model)
        found, reasons = find_groups(model, image)
        self._trial_image = _small(model, image)
        self.protected = dict.fromkeys(exclude, "excluded by the recipe")
        trusted = self._trusted(model, [group for group in found if self.protected.keys().isdisjoint(group.makers)])
        self.protected = reasons | self.protected
        self.widths = {group.name: group.width for group in trusted}
        self._gauges = {group.name: _gauge(group) for group in trusted}
        self._traced = _shapes(model), self._prunable(found)
        self._counted: tuple[list[torch.Size], dict[str, float]] = [], {}
        if not any(kept_width(group.width, group.unit, 1 - config.floor, config) < group.width for group in trusted):
            raise RunError(
                f"nothing can be pruned: all {len(found) or 'no'} groups of channels are protected, or narrower than "
                f"'round_to' {config.round_to} allows{self._reasons()}"
            )

    def groups(self, model: PreTrainedModel) -> list[Group]:
        """Return the groups of `model`, pruned or not, that may lose channels; equal shapes are traced once."""
        if (shapes := _shapes(model)) != self._traced[0]:
            self._traced = shapes, self._prunable(find_groups(model, self.image)[0])
        return self._traced[1]

    def _prunable(self, groups: list[Group]) -> list[Group]:
        found = {group.name: group for group in groups}
        for lead, shares in self.joint.items():
            parts = [found.pop(name) for name in shares if name in found]
            if len(parts) == len(shares) and len({part.units / shares[part.name] for part in parts}) == 1:
                found[lead] = join(parts)
        return [group for group in found.values() if group.name in self.widths]

    def restrict(self, names: set[str]) -> None:
        """Leave all groups but these alone; amounts and sparsity refer to these from now on."""
        self.widths = {name: width for name, width in self.widths.items() if name in names}
        self._gauges = {name: gauge for name, gauge in self._gauges.items() if name in names}
        shapes, groups = self._traced
        self._traced = shapes, [group for group in groups if group.name in names]

    def remove(self, model: PreTrainedModel, scores: Scores, amount: float) -> Kept:
        groups = self.groups(model)
        costs = self._costs(model, groups) if self.config.counts_cost else dict.fromkeys(scores, 1.0)
        ranked = [Ranked(g.name, scores[g.name].cpu(), g.unit, self.widths[g.name], costs[g.name]) for g in groups]
        return self.apply(model, groups, allocate(ranked, amount, self.config))

    def apply(self, model: PreTrainedModel, groups: list[Group], removed: Plan) -> Kept:
        """Remove what a plan says, in place, and return what is left: see `remove_units`.

        Raises:
            DoesNotRun: the pruned model does not.
        """
        kept = remove_units(model, groups, removed, self.attributes)
        use_channels_last(model)
        if tried(model, self.image) is None:
            raise DoesNotRun(
                f"the model does not run after the removal of channels from {', '.join(removed)}: exclude them"
            )
        return kept

    def sparsity(self, model: PreTrainedModel) -> float:
        """Return the fraction of the removable channels that is gone."""
        gone = 0.0
        for name, (member, units) in self._gauges.items():
            tensor = getattr(model.get_submodule(member.axis.module), member.axis.tensor)
            gone += self.widths[name] * (member.axis.size - tensor.shape[member.axis.dim]) / units
        return gone / sum(self.widths.values())

    def _costs(self, model: PreTrainedModel, groups: list[Group]) -> dict[str, float]:
        """Return what a unit of each group costs; equal shapes are counted once."""
        if self.milliseconds is not None:
            return self.milliseconds
        if (shapes := _shapes(model)) != self._counted[0]:
            self._counted = shapes, unit_macs(model, groups, self.image)
        return self._counted[1]

    def measure(self, model: PreTrainedModel, stopwatch: Stopwatch) -> dict[str, float]:
        """Return the milliseconds of a unit of each group of the unpruned model."""

        def without(group: Group, units: int) -> PreTrainedModel:
            trial = copy_with_same_tensors(model)
            remove_units(trial, [group], {group.name: list(range(units))}, self.attributes)
            return trial

        return stopwatch.unit_milliseconds(self.groups(model), without)

    def _trusted(self, model: PreTrainedModel, groups: list[Group]) -> list[Group]:
        """Return the groups that pass both trials; protect the layers of the others."""
        for group in (failing := _failing(groups, Symmetry(model, self._trial_image).holds)):
            self.protected |= dict.fromkeys(group.makers, UNORDERED)
        groups = [group for group in groups if group not in failing]
        failing = _failing(groups, lambda some: self._survives(model, some))
        stuck = [group for group in failing if not self._find_attributes(model, group)]
        trusted = self._freed(model, stuck, [group for group in groups if group not in stuck])
        freed = {maker for group in trusted for maker in group.makers}
        for group in stuck:
            if not freed.issuperset(group.makers):
                reason = f"{BREAKS}{self._where_it_breaks(model, group)}"
                self.protected |= {maker: reason for maker in group.makers if maker not in freed}
        return trusted

    def _freed(self, model: PreTrainedModel, stuck: list[Group], passing: list[Group]) -> list[Group]:
        """Return `passing`, and what runs when groups lose channels together."""
        for some in tied(stuck):
            if self._find_attributes(model, join(some)):
                passing = [*passing, self._join(some)]
                stuck = [group for group in stuck if group not in some]
        for units in dict.fromkeys(group.units for group in stuck):
            alike = [group for group in stuck if group.units == units]
            passing = passing + self._joined(model, alike)
        joined = {name for shares in self.joint.values() for name in shares}
        for group in [group for group in stuck if group.name not in joined]:
            twins = [other for other in passing if not other.parts and are_twins(group, other)]
            if twins and self._find_attributes(model, join([group, *twins])):
                passing = [other for other in passing if other not in twins] + [self._join([group, *twins])]
        return passing

    def _join(self, groups: list[Group]) -> Group:
        joint = join(groups)
        self.joint[joint.name] = {group.name: group.units // joint.units for group in groups}
        return joint

    def _joined(self, model: PreTrainedModel, stuck: list[Group]) -> list[Group]:
        """Return what runs when groups of one width lose channels together, as few of them as possible.

        A forward pass that takes the width of one tensor from the shape of another ties them without an operation
        that joins their channels.
        """
        joined = []
        while len(stuck) > 1 and self._find_attributes(model, join(stuck)):
            needed = stuck
            attributes = self.attributes[join(stuck).name]
            for group in stuck[1:]:
                fewer = [other for other in needed if other is not group]
                if len(fewer) > 1 and self._runs(model, join(fewer), attributes):
                    needed = fewer
            self._runs(model, join(needed), attributes)
            joined.append(self._join(needed))
            stuck = [group for group in stuck if group not in needed]
        return joined

    def _find_attributes(self, model: PreTrainedModel, group: Group) -> bool:
        """Find the integers that must change so that the model runs without some channels of the group.

        One alone is tried, or all of a name where groups of many layers were joined.
        """
        places = width_attributes(model, group)
        kinds = [[place] for place in places]
        if group.parts:
            kinds = [[p for p in places if p[1:] == what] for what in dict.fromkeys(p[1:] for p in places)]
        all_but_one = ([place for place in places if place not in kind] for kind in kinds)
        return any(self._runs(model, group, some) for some in ([], *kinds, places, *all_but_one))

    def _runs(self, model: PreTrainedModel, group: Group, attributes: list[Attribute]) -> bool:
        """Return whether the model runs without some channels of a group if `attributes` count them."""
        counted = width_attributes(model, group)
        self.attributes[group.name] = [place for place in attributes if place in counted]
        if self._survives(model, [group]):
            return True
        del self.attributes[group.name]
        return False

    def _survives(self, model: PreTrainedModel, groups: list[Group]) -> bool:
        try:
            return tried(self._without_some(model, groups), self._trial_image) is not None
        except FAILURES as error:
            logger.debug("channel removal failed: %s", error)
            return False

    def _without_some(self, model: PreTrainedModel, groups: list[Group]) -> PreTrainedModel:
        trial = copy_with_same_tensors(model)
        least = {group.name: max(1, min(self.config.round_to, group.width // 2) // group.unit) for group in groups}
        remove_units(trial, groups, {name: list(range(units)) for name, units in least.items()}, self.attributes)
        return trial

    def _where_it_breaks(self, model: PreTrainedModel, group: Group) -> str:
        place = where_it_breaks(self._without_some(model, [group]), self._trial_image)
        return f": {place}" if place else ""

    def _reasons(self) -> str:
        return "".join(f"; '{layer}': {reason}" for layer, reason in list(self.protected.items())[:3])


def _small(model: PreTrainedModel, image: Tensor) -> Tensor:
    """Return a part of `image` where the model takes pictures of other sizes."""
    part = image[..., :TRIAL_SIDE, :TRIAL_SIDE]
    return image if tried(model, part) is None else part


def _shapes(model: PreTrainedModel) -> list[torch.Size]:
    return [parameter.shape for parameter in model.parameters()]


def _failing(groups: list[Group], passes) -> list[Group]:
    """Return the groups that do not pass: halve until they are found."""
    if not groups or passes(groups):
        return []
    if len(groups) == 1:
        return groups
    half = len(groups) // 2
    return _failing(groups[:half], passes) + _failing(groups[half:], passes)


def _gauge(group: Group) -> tuple[Member, int]:
    """Return a member whose size tells how many units are left, and its indices in the unpruned model."""
    whole = [member for member in group.members if member.indices.size == member.axis.size]
    member = (whole or group.members)[0]
    return member, member.indices.size
