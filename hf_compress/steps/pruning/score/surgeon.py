"""The criterion `obs`: units go one after the other, and those who read them make up for them."""

from __future__ import annotations

from itertools import islice

import torch
from rich.progress import track
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from hf_compress.ground.looking import twin
from hf_compress.ground.outputs import output_tensors
from hf_compress.ground.processor import fastest_device
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.tracing.groups import Group, Member

DAMPING = 1e-2  # of the mean second moment of the inputs
TURNS = 64  # in which a group goes, several units at a time
MEASURED = 2  # batches
TINY = 1e-12


def output_losses(model: nn.Module, groups: list[Group], calibration: Calibration) -> dict[str, Tensor]:
    """Return the importance of each unit by group, shape (units,): the mean squared change of the model's outputs.

    Within a group, scores rise in the order in which units go.
    """
    model = twin(model).to(fastest_device())
    grams = _input_grams(model, groups, calibration)
    images = list(islice(calibration.pixel_values(), MEASURED))
    whole = _outputs(model, images)
    scores = {}
    for group in track(groups, "Asking the surgeon", transient=True):
        readers = [_Reader(model, member, grams) for member in group.members if member.reads]
        order, losses, halved = _removed_in_turn(group, readers)
        error = (_outputs(model, images, halved) - whole).square().mean(0).sum()
        scale = error / losses[: group.units // 2].sum().clamp_min(TINY)
        rising = torch.arange(1, group.units + 1, device=losses.device) * 1e-6 + 1  # equal losses keep their order
        scores[group.name] = torch.empty_like(losses).index_put_((order,), scale * losses.cummax(0).values * rising)
    return {name: values.float() for name, values in scores.items()}


class _Reader:
    """The weight of a layer that reads a group, and the inverse of the second moments of what it reads.

    Attributes:
        weight: shape (outputs by kernel position, inputs).
        inverse: shape (inputs, inputs), of the inputs that are left.
        indices: the inputs of each unit, shape (units, inputs a unit).
    """

    def __init__(self, model: nn.Module, member: Member, grams: dict[str, Tensor]):
        self.name = member.axis.module
        self.layer = model.get_submodule(self.name)
        weight = self.layer.weight.detach().double().movedim(member.axis.dim, -1)
        self.shape, self.weight = weight.shape, weight.flatten(0, -2)
        self.dim = member.axis.dim
        gram = grams[self.name]
        damping = DAMPING * gram.diagonal().mean().clamp_min(TINY)
        self.inverse = torch.linalg.inv(gram + damping * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
        self.energy = (self.weight @ gram * self.weight).sum().clamp_min(TINY)
        self.indices = torch.from_numpy(member.indices).to(gram.device)

    def losses(self, units: Tensor) -> Tensor:
        """Return by how much the error of the output grows when each unit goes, of the output's energy."""
        indices = self.indices[units]
        blocks = self.inverse[indices[:, :, None], indices[:, None]]
        weights = self.weight[:, indices].permute(1, 2, 0)
        return (weights * torch.linalg.solve(blocks, weights)).sum((1, 2)) / self.energy

    def remove(self, units: Tensor) -> None:
        gone = self.indices[units].flatten()
        by_others = torch.linalg.solve(self.inverse[gone][:, gone], self.inverse[gone])
        self.weight -= self.weight[:, gone] @ by_others
        self.weight[:, gone] = 0
        self.inverse -= self.inverse[:, gone] @ by_others
        self.inverse[gone, gone] = 1

    def as_parameter(self) -> nn.Parameter:
        weight = self.weight.view(self.shape).movedim(-1, self.dim).to(self.layer.weight, copy=True)
        return nn.Parameter(weight, requires_grad=False)


def _removed_in_turn(group: Group, readers: list[_Reader]) -> tuple[Tensor, Tensor, dict[str, nn.Parameter]]:
    """Return the order in which units go, the loss of each, and the readers' weights when half of them are gone."""
    device = readers[0].weight.device
    left = torch.arange(group.units, device=device)
    order, losses, halved = [], [], {}
    gone, half, step = 0, group.units // 2, -(-group.units // TURNS)
    while len(left):
        found = sum(reader.losses(left) for reader in readers)
        count = min(step, half - gone) if gone < half else step
        lowest = found.argsort(stable=True)[:count]
        order.append(left[lowest])
        losses.append(found[lowest])
        for reader in readers:
            reader.remove(left[lowest])
        keep = torch.ones(len(left), dtype=torch.bool, device=device).index_fill_(0, lowest, False)
        left, gone = left[keep], gone + len(lowest)
        if gone == half:
            halved = {reader.name: reader.as_parameter() for reader in readers}
    return torch.cat(order), torch.cat(losses), halved


@torch.no_grad()
def _input_grams(model: nn.Module, groups: list[Group], calibration: Calibration) -> dict[str, Tensor]:
    """Return the mean second moments of what each reader's kernel meets in its middle, (inputs, inputs), by layer."""
    grams: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(name: str):
        def after(layer: nn.Module, args: tuple, output: Tensor) -> None:
            source = args[0]
            if not isinstance(layer, nn.Linear | Conv1D):
                source = source[..., *(slice(None, None, stride) for stride in layer.stride)].flatten(2).mT
            read = source.flatten(0, -2)
            grams[name] = grams.get(name, 0) + (read.T @ read).double()
            counts[name] = counts.get(name, 0) + len(read)

        return after

    names = {member.axis.module for group in groups for member in group.members if member.reads}
    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in names]
    for images in track(calibration.pixel_values(), "Looking at what layers read", transient=True):
        model(pixel_values=images)
    for handle in handles:
        handle.remove()
    return {name: gram / counts[name] for name, gram in grams.items()}


@torch.no_grad()
def _outputs(model: nn.Module, batches: list[Tensor], weights: dict[str, nn.Parameter] | None = None) -> Tensor:
    """Return all outputs, shape (images, numbers), with other weights in some layers."""
    old = {name: model.get_submodule(name).weight for name in weights or {}}
    for name, weight in (weights or {}).items():
        model.get_submodule(name).weight = weight
    said = [
        [tensor.flatten(1) for tensor in output_tensors(model(pixel_values=images)).values()] for images in batches
    ]
    for name, weight in old.items():
        model.get_submodule(name).weight = weight
    return torch.cat([torch.cat(parts, 1) for parts in said]).double()
