"""The criterion `obs`: who goes first, what that costs the outputs, and on which scale."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.score import surgeon
from hf_compress.steps.pruning.score.criteria import CRITERIA
from hf_compress.steps.pruning.score.surgeon import surgeon_losses
from hf_compress.steps.pruning.tracing.groups import Group, Member, find_groups
from hf_compress.steps.pruning.tracing.labels import Axis
from tests.families import FAMILIES


def calibration(batches=2, side=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(24, 3, side, side, generator=generator) for _ in range(batches)]
    return SimpleNamespace(pixel_values=lambda: iter(images))


def reading(layer, indices):
    """A group whose units are these inputs of a layer."""
    dim = 0 if isinstance(layer, Conv1D) else 1
    axis = Axis("read", "weight", dim, layer.weight.shape[dim], 0)
    return Group("made", [Member(axis, np.array(indices))], ["made"], [], len(indices[0]))


class Read(nn.Module):
    """One layer reads six numbers an image."""

    def __init__(self, read):
        super().__init__()
        self.made, self.read = nn.Linear(48, 6), read
        self.read.bias.data.normal_()

    def inputs(self, pixel_values):
        return self.made(pixel_values.flatten(1)).relu() + 0.1

    def forward(self, pixel_values):
        return {"logits": self.read(self.inputs(pixel_values))}


UNITS = {"channels": [[0], [1], [2], [3], [4], [5]], "blocks": [[0, 3], [1, 4], [2, 5]]}


@pytest.mark.parametrize("units", UNITS)
@pytest.mark.parametrize("kind", [nn.Linear, Conv1D])
@torch.no_grad()
def test_scores_are_the_least_squares_errors_of_one_reader(monkeypatch, units, kind):
    """Its output, without what went, is the nearest that a matrix makes of what is left; the greedy order is kept."""
    monkeypatch.setattr(surgeon, "DAMPING", 1e-9)
    torch.manual_seed(0)
    model, indices = Read(nn.Linear(6, 4) if kind is nn.Linear else Conv1D(4, 6)), UNITS[units]
    model.made.weight.data *= torch.arange(1.0, 7)[:, None]
    model.read.weight.data.normal_()
    scores = surgeon_losses(model, [reading(model.read, indices)], calibration())["made"]
    inputs = torch.cat([model.inputs(images) for images in calibration().pixel_values()]).double()
    whole = inputs @ (model.read.weight if kind is Conv1D else model.read.weight.T).double()

    def error(left):
        chosen = inputs[:, [index for unit in left for index in indices[unit]]]
        fitted = chosen @ torch.linalg.lstsq(chosen, whole).solution if left else 0
        return (whole - fitted).square().sum(1).mean().item()

    left = list(range(len(indices)))
    for unit in scores.argsort().tolist():
        errors = {other: error([each for each in left if each != other]) for other in left}
        assert unit == min(errors, key=errors.get)
        left.remove(unit)
        gone = [each for each in range(len(indices)) if each not in left]
        assert scores[gone].sum().item() == pytest.approx(errors[unit], rel=1e-3)


class Two(nn.Module):
    """Two branches that are the same, one of which counts ten times as much; unit 4 of each repeats unit 1."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__()
        self.one, self.one_read = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 3, padding=1, stride=2)
        self.one.bias.data += 0.3
        for values in (self.one.weight, self.one.bias):
            values.data[4] = 0.5 * values.data[1]
        self.two, self.two_read = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 3, padding=1, stride=2)
        self.two.load_state_dict(self.one.state_dict())
        self.two_read.load_state_dict(self.one_read.state_dict())
        self.eval()

    def forward(self, pixel_values):
        one = self.one_read(self.one(pixel_values).relu())
        return {"one": one, "two": 10 * self.two_read(self.two(pixel_values).relu())}


def scores_of(model):
    """Return the scores of both branches."""
    groups, _ = find_groups(model, torch.rand(1, 3, 8, 8))
    assert [group.name for group in groups] == ["one", "two"]
    return surgeon_losses(model, groups, calibration(side=8))


def test_what_others_can_replace_goes_first(monkeypatch):
    monkeypatch.setattr(surgeon, "DAMPING", 1e-6)
    model = Two()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    scores = scores_of(model)
    for values in scores.values():
        first, second = values.argsort()[:2].tolist()
        assert first in (1, 4)
        assert values[first] < 1e-3 * values[second]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_units_that_go_several_at_a_time_meet_the_half_and_keep_their_order(monkeypatch):
    monkeypatch.setattr(surgeon, "TURNS", 3)
    scores = scores_of(Two())
    assert all(len(values.unique()) == 8 for values in scores.values())


def test_a_head_that_repeats_another_goes_first(monkeypatch):
    monkeypatch.setattr(surgeon, "DAMPING", 1e-6)
    family = next(family for family in FAMILIES if family.name == "vit")
    torch.manual_seed(0)
    model = family.build().eval()
    image = torch.rand(1, 3, family.image_size, family.image_size)
    pruner = ChannelPruner(model, image, PruneSection(round_to=1), set())
    heads = [group for group in pruner.groups(model) if group.unit > 1]
    assert heads
    for group in heads:
        assert group.units > 2
        for member in group.members:
            if not member.reads:
                values = member.tensor(model).data
                values[torch.from_numpy(member.indices[2])] = values[torch.from_numpy(member.indices[0])]
    scores = CRITERIA.get("obs").function(model, heads, calibration(side=family.image_size))
    for group in heads:
        values = scores[group.name]
        assert values.shape == (group.units,)
        first, second = values.argsort()[:2].tolist()
        assert first in (0, 2)
        assert values[first] < 0.05 * values[second]


def test_of_very_many_inputs_each_is_looked_at_by_itself(monkeypatch):
    """What goes costs the mean of the squares that it gave; memory holds no matrix of the inputs."""
    monkeypatch.setattr(surgeon, "MOST_INPUTS", 5)
    torch.manual_seed(0)
    model = Read(nn.Linear(6, 4))
    scores = surgeon_losses(model, [reading(model.read, UNITS["blocks"])], calibration())["made"]
    inputs = torch.cat([model.inputs(images) for images in calibration().pixel_values()]).double()
    each = inputs.square().mean(0) * model.read.weight.double().square().sum(0)
    assert scores.tolist() == pytest.approx([(each[a] + each[b]).item() for a, b in UNITS["blocks"]], rel=1e-4)
