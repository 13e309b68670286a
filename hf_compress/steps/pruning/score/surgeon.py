"""The criterion `obs`: units go one after the other, and those who read them make up for them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_compress.ground.looking import twin
from hf_compress.ground.processor import fastest_device, full_float32
from hf_compress.ground.progress import track
from hf_compress.steps.pruning.repair.places import Place, find_places
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.reading import look
from hf_compress.steps.pruning.tracing.groups import Group, Member

DAMPING = 1e-2  # of the mean second moment of the inputs
TURNS = 64  # in which a group goes, several units at a time
TINY = 1e-12
MOST_INPUTS = 2**13  # of a layer that are looked at together; more count as uncorrelated


@full_float32()
def surgeon_losses(model: nn.Module, groups: list[Group], calibration: Calibration) -> dict[str, Tensor]:
    """Return the importance of each unit by group, shape (units,): by how much the error of its readers grows.

    Within a group, scores rise in the order in which units go.
    """
    model = twin(model).to(fastest_device())
    scores = {}
    for group, readers in track(readers_of(model, groups, calibration), "Asking the surgeon", len(groups)):
        order, losses = _removed_in_turn(group.units, readers)
        rising = torch.arange(1, group.units + 1, device=losses.device) * 1e-6 + 1  # equal losses keep their order
        scores[group.name] = torch.empty_like(losses).index_put_((order,), losses.cummax(0).values * rising).float()
    return scores


def readers_of(
    model: nn.Module, groups: list[Group], calibration: Calibration
) -> Iterator[tuple[Group, list[GroupReader]]]:
    """Yield each group with those who read it, who know what calibration images give them to read."""
    places = {place.layer: place for place in find_places(model, next(calibration.pixel_values()))[0]}
    grams = _input_grams(model, groups, calibration)
    for group in groups:
        yield (
            group,
            [
                GroupReader(model, member, grams.get(member.axis.module), places.get(member.axis.module))
                for member in group.members
                if member.reads
            ],
        )


class GroupReader:
    """The weight of a layer that reads a group, and the inverse of the second moments of what it reads.

    The weight counts as that of what the layer gives behind its norm, or to the addition behind it. What a layer reads
    that the model never calls, since another operation takes its weight, counts as uncorrelated with variance 1.

    Attributes:
        weight: shape (outputs by kernel position, inputs).
        moments: second moments of the inputs, shape (inputs,), where these are more than can be looked at together.
        inverse: shape (inputs, inputs), of the inputs that are left.
        indices: the inputs of each unit, shape (units, inputs a unit).
    """

    def __init__(self, model: nn.Module, member: Member, gram: Tensor | None, place: Place | None):
        self.layer, self.whole = (layer := model.get_submodule(member.axis.module)), layer.weight
        self.dims = (1 - member.axis.dim, member.axis.dim), (0, -1)
        weight = layer.weight.detach().double().movedim(*self.dims)
        self.gain = torch.ones_like(weight[..., :1])
        if place is not None and place.gain is not None:
            self.gain *= place.gain.to(weight).view(-1, *(1 for _ in weight.shape[1:]))
        self.weight = (weight * self.gain).flatten(0, -2)
        if gram is None:
            gram = torch.ones_like(self.weight[0]) if self.is_wide else torch.ones_like(self.weight[0]).diag()
        self.indices = torch.from_numpy(member.indices).to(gram.device)
        if self.is_wide:
            self.moments = gram
            return
        damping = DAMPING * gram.diagonal().mean().clamp_min(TINY)
        self.inverse = torch.linalg.inv(gram + damping * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))

    @property
    def is_wide(self) -> bool:
        return self.weight.shape[1] > MOST_INPUTS

    def show(self) -> None:
        """Give the layer, which is not to be trained, the weight that is left; `restore` gives the whole one back."""
        weight = self.weight.view(*self.gain.shape[:-1], -1)
        weight = torch.where(self.gain == 0, 0, weight / self.gain).movedim(*reversed(self.dims))
        self.layer.weight = nn.Parameter(weight.to(self.whole).contiguous(), requires_grad=False)

    def restore(self) -> None:
        self.layer.weight = self.whole

    def losses(self, units: Tensor) -> Tensor:
        """Return by how much the error of the output grows when each unit goes, shape (units,)."""
        indices = self.indices[units]
        if self.is_wide:
            return (self.weight.square().sum(0) * self.moments)[indices].sum(1)
        blocks = self.inverse[indices[:, :, None], indices[:, None]]
        weights = self.weight[:, indices].permute(1, 2, 0)
        return (weights * torch.linalg.solve(blocks, weights)).sum((1, 2))

    def remove(self, units: Tensor) -> None:
        gone = self.indices[units].flatten()
        if self.is_wide:
            self.weight[:, gone] = 0
            return
        by_others = torch.linalg.solve(self.inverse[gone][:, gone], self.inverse[gone])
        self.weight -= self.weight[:, gone] @ by_others
        self.weight[:, gone] = 0
        self.inverse -= self.inverse[:, gone] @ by_others
        self.inverse[gone, gone] = 1


def _removed_in_turn(units: int, readers: list[GroupReader]) -> tuple[Tensor, Tensor]:
    """Return the order in which units go, and the loss of each."""
    left = torch.arange(units, device=readers[0].weight.device)
    order, losses = [], []
    while len(left):
        found = sum(reader.losses(left) for reader in readers)
        lowest = found.argsort(stable=True)[: -(-units // TURNS)]
        order.append(left[lowest])
        losses.append(found[lowest])
        for reader in readers:
            reader.remove(left[lowest])
        left = left[torch.ones(len(left), dtype=torch.bool, device=left.device).index_fill_(0, lowest, False)]
    return torch.cat(order), torch.cat(losses)


def _input_grams(model: nn.Module, groups: list[Group], calibration: Calibration) -> dict[str, Tensor]:
    """Return the mean second moments of what each reader's kernel meets in its middle, (inputs, inputs), by layer.

    Of a layer with more inputs than are looked at together, those of each input by itself, (inputs,).
    """
    grams: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def see(name: str, layer: nn.Module, source: Tensor) -> None:
        if not isinstance(layer, nn.Linear | Conv1D):
            source = source[..., *(slice(None, None, stride) for stride in layer.stride)].flatten(2).mT
        read = source.flatten(0, -2)
        moments = read.square().sum(0) if read.shape[1] > MOST_INPUTS else read.T @ read
        grams[name] = grams.get(name, 0) + moments.double()
        counts[name] = counts.get(name, 0) + len(read)

    names = {member.axis.module for group in groups for member in group.members if member.reads}
    look(model, names, calibration, see)
    return {name: gram / counts[name] for name, gram in grams.items()}
