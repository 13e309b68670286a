"""Channel pruning that the architecture's own config can express: `layout: config`.

Every number of the config that sets widths loses the same fraction, in all layers that it sets. What a number sets is
found by building the architecture with another one; it is used only if a copy that was pruned that way gives the same
logits as the model which the changed config builds.
"""

from __future__ import annotations

import copy
from itertools import combinations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_compress.checkpoint.widths import REFUSALS, Knob, Sizes, built_shapes, numbers, rebuilt, tensor_shapes
from hf_compress.ground.errors import DoesNotRun, RunError
from hf_compress.ground.outputs import output_tensors
from hf_compress.steps.pruning.allocate.units import least_important
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.remove.pruner import Pruner
from hf_compress.steps.pruning.remove.removal import Kept, kept_in_turn
from hf_compress.steps.pruning.score.scoring import Scores, equal
from hf_compress.steps.pruning.tracing.groups import Group

FREE = "use layout: free"
LEAST_CHANGE = 0.75
Changes = dict[tuple[str, int], float] | None


class UniformPruner(Pruner):
    """Removes channels uniformly, so that the config alone describes the model.

    Args:
        model: unpruned model; widths and amounts refer to it.
        image: one input, shape (1, 3, height, width).
        exclude: names of modules to leave alone.

    Attributes:
        protected: layers whose channels stay, with the reason.
        knobs: the numbers of the config that are pruned, each with the names of its groups.

    Raises:
        RunError: no number can be pruned.
    """

    def __init__(self, model: PreTrainedModel, image: Tensor, config: PruneSection, exclude: set[str]):
        self.image = image
        self.config = config
        self.channels = ChannelPruner(model, image, config, exclude)
        self.obstacles: dict[str, str] = {}
        groups = self.channels.groups(model)
        self.knobs = self._find_knobs(model, groups)
        governed = {name for names in self.knobs.values() for name in names}
        if not governed:
            why = "".join(f"; {reason}" for reason in list(dict.fromkeys(self.obstacles.values()))[:3])
            raise RunError(
                f"no width of {type(model).__name__} can be pruned within its config, not even that of layer "
                f"'{groups[0].name}'{why}: {FREE}"
            )
        self.protected = dict(self.channels.protected)
        for group in groups:
            if group.name not in governed:
                reason = self.obstacles.get(group.name, "no number of the config sets its width")
                self.protected |= dict.fromkeys(group.makers, f"{reason}: {FREE}")
        self.channels.restrict(governed)

    def groups(self, model: PreTrainedModel) -> list[Group]:
        return self.channels.groups(model)

    def remove(self, model: PreTrainedModel, scores: Scores, amount: float) -> Kept:
        """Remove the least important channels, in place, and write the new numbers into the model's config.

        Raises:
            RunError: the pruned model does not run, or is not what its config describes.
        """
        kept: Kept = {}
        for knob, names in self.knobs.items():
            groups = [group for group in self.groups(model) if group.name in names]
            for value in self._values(knob, amount):
                if (left := self._turn(model, groups, scores, knob, value)) is not None:
                    kept = kept_in_turn(kept, left)
                    break
        if built_shapes(model, model.config) != tensor_shapes(model):
            raise DoesNotRun(f"the pruned {type(model).__name__} is not what its config describes: {FREE}")
        return kept

    def sparsity(self, model: PreTrainedModel) -> float:
        """Return the fraction of the removable channels that is gone."""
        return self.channels.sparsity(model)

    def _values(self, knob: Knob, amount: float) -> list[int | float]:
        """Return the values to try for what should be left of a knob, first the wanted one, then larger ones."""
        if isinstance(knob.value, float):
            return [round(knob.value * max(1 - amount, self.config.floor), 4)]
        step = self.config.round_to if knob.value >= 2 * self.config.round_to else 1
        least = max(1, self.config.floor * knob.value)
        wanted = max(step, round(knob.value * (1 - amount) / step) * step)
        return [value for value in range(wanted, knob.value, step) if value >= least]

    def _turn(
        self, model: PreTrainedModel, groups: list[Group], scores: Scores, knob: Knob, value: int | float
    ) -> Kept | None:
        """Prune `groups` to what the config builds with another value; None, and no change, where that cannot be."""
        config = copy.deepcopy(model.config)
        knob.turn(config, value)
        shapes = built_shapes(model, config)
        if shapes is None or shapes.keys() != model.state_dict().keys():
            return None
        surplus = {group.name: _surplus(group, shapes) for group in groups}
        if None in surplus.values():
            return None
        plan = {group.name: least_important(scores[group.name].cpu(), surplus[group.name]) for group in groups}
        kept = self.channels.apply(model, groups, plan)
        knob.turn(model.config, value)
        return kept

    def _find_knobs(self, model: PreTrainedModel, groups: list[Group]) -> dict[Knob, set[str]]:
        """Return the knobs that work, each with its groups; single numbers first, then equal ones together."""
        knobs: dict[Knob, set[str]] = {}
        singles = {knob: changes for knob in numbers(model.config) if (changes := self._changes(model, knob)) != {}}
        for knob, changes in singles.items():
            self._try(model, groups, knobs, knob, changes)
        for one, other in combinations([knob for knob in singles if knob not in knobs], 2):
            if one.value == other.value and type(one.value) is type(other.value):
                knob = Knob(one.places + other.places, one.value)
                self._try(model, groups, knobs, knob, self._changes(model, knob))
        return knobs

    def _try(
        self, model: PreTrainedModel, groups: list[Group], knobs: dict[Knob, set[str]], knob: Knob, changes: Changes
    ) -> None:
        """Add a knob to `knobs` if it sets widths of groups that are still free, and nothing else."""
        free = [group for group in groups if not any(group.name in names for names in knobs.values())]
        names, beside = self._governed(model, changes, free)
        if not names:
            return
        if beside:
            reason = f"{knob} also sets the width of '{beside}', which stays"
        elif self._is_exact(model, [group for group in free if group.name in names], knob):
            knobs[knob] = names
            return
        else:
            reason = f"{knob} sets more than widths of layers"
        self.obstacles = dict.fromkeys(names, reason) | self.obstacles

    def _changes(self, model: PreTrainedModel, knob: Knob) -> Changes:
        """Return which dimensions of which tensors shrink when the knob is turned; None: it changes something else."""
        config = copy.deepcopy(model.config)
        try:
            knob.turn(config, _half(knob.value))
        except REFUSALS:
            return {}
        shapes, now = built_shapes(model, config), tensor_shapes(model)
        if shapes is None or shapes.keys() != now.keys():
            return None
        if any(len(shape) != len(now[name]) for name, shape in shapes.items()):
            return None
        changed = {
            (name, dim): size / now[name][dim]
            for name, shape in shapes.items()
            for dim, size in enumerate(shape)
            if size != now[name][dim]
        }
        return None if any(ratio > LEAST_CHANGE for ratio in changed.values()) else changed

    def _governed(self, model: PreTrainedModel, changes: Changes, groups: list[Group]) -> tuple[set[str], str]:
        """Return the groups whose every member shrinks with a knob, and a tensor of another that shrinks beside."""
        if not changes:
            return set(), ""
        names, covered = set(), set()
        for group in groups:
            places = {_place(member) for member in group.members if _place(member)[0] in model.state_dict()}
            if places and places <= changes.keys():
                names.add(group.name)
                covered |= places
        return names, min((name for name, _ in changes.keys() - covered), default="")

    def _is_exact(self, model: PreTrainedModel, groups: list[Group], knob: Knob) -> bool:
        """Try the knob on a copy: the changed config with the weights that are left must give the same outputs."""
        trial = copy.deepcopy(model).eval()
        image = torch.rand(self.image.shape, generator=torch.Generator().manual_seed(0))
        try:
            if self._turn(trial, groups, equal(groups), knob, _half(knob.value)) is None:
                return False
            with torch.no_grad():
                ours, theirs = (output_tensors(each(pixel_values=image)) for each in (trial, rebuilt(trial)))
        except (*REFUSALS, RunError):
            return False
        return all(
            torch.allclose(tensor, theirs[name], rtol=1e-4, atol=1e-5 * float(tensor.abs().max()))
            for name, tensor in ours.items()
        )


def _half(value: int | float) -> int | float:
    return value // 2 if isinstance(value, int) else value / 2


def _place(member) -> tuple[str, int]:
    return f"{member.axis.module}.{member.axis.tensor}".lstrip("."), member.axis.dim


def _surplus(group: Group, shapes: Sizes) -> int | None:
    """Return how many units must go so that every member has its size in `shapes`; None where there is no number."""
    wanted = set()
    for member in group.members:
        name, dim = _place(member)
        if name in shapes and member.indices.size == member.axis.size:
            units, rest = divmod(member.axis.size - shapes[name][dim], member.indices.shape[1])
            wanted.add(units if not rest and 0 <= units < group.units else None)
    return wanted.pop() if len(wanted) == 1 else None
