"""Repair: what a pruned model answers afterwards, and what of it is kept."""

import copy
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from transformers.pytorch_utils import Conv1D

from hf_compress.steps.pruning import repair as kept_repair
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.removal import remove_units
from hf_compress.steps.pruning.repair import moments as solving
from hf_compress.steps.pruning.repair import repair
from hf_compress.steps.pruning.repair.least_squares import least_squares
from hf_compress.steps.pruning.repair.places import find_places
from hf_compress.steps.pruning.tracing.groups import find_groups
from tests.nets import LAYERS, Net, Shared, assert_all_is_over, counted, photos

repairing = import_module(least_squares.__module__)  # the package has the function by this name


class Pooled(Net):
    """What is added to the block is made after its last layer."""

    def forward(self, pixel_values):
        x = self.stem(pixel_values).relu()
        y = self.narrow_norm(self.narrow(self.wide_norm(self.wide(x)).relu()))
        return self.classify((y + F.avg_pool2d(x, 3, 1, 1)).relu().mean((2, 3)))


class Branched(Net):
    """Two layers' outputs are added to one tensor."""

    def __init__(self, **options):
        super().__init__(**options)
        self.other = nn.Conv2d(8, 8, 1)

    def forward(self, pixel_values):
        x = self.stem(pixel_values).relu()
        one = x + self.narrow_norm(self.narrow(self.wide_norm(self.wide(x)).relu()))
        return self.classify((one * (x + self.other(x))).mean((2, 3)))


def pruned(model, units, group="wide"):
    """Return a copy without some units, and what is kept."""
    smaller = copy.deepcopy(model)
    groups, _ = find_groups(smaller, photos(1)[0][:1])
    return smaller, remove_units(smaller, groups, {group: units}, {})


def logits(model, batches=None):
    with torch.no_grad():
        said = [model(pixel_values=images) for images in batches or photos()]
    return torch.cat([each["logits"] if isinstance(each, dict) else each for each in said])


def error(model, other):
    return float((logits(model) - logits(other)).square().mean())


@pytest.mark.parametrize("build", [Pooled, Branched, Shared])
def test_whatever_is_added_the_outputs_get_nearer(build):
    model = build()
    smaller, kept = pruned(model, [0, 1, 2, 3])
    before = error(model, smaller)
    least_squares(model, smaller, kept, photos())
    assert error(model, smaller) < before / 2
    assert_all_is_over(model, smaller)


class Readers(nn.Module):
    """What the layer `made` makes is read by a convolution with a norm, one with a bias, and linear layers."""

    def __init__(self, norm):
        torch.manual_seed(0)
        super().__init__()
        self.made = nn.Conv2d(3, 8, 3, bias=not norm)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.one, self.one_norm = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.two = nn.Conv2d(8, 6, 3, padding="same")
        self.three, self.four = nn.Linear(8, 6), Conv1D(6, 8)
        self.made.weight.data[1] = 0.2 * self.made.weight.data[1].sign() + 0.02  # half of it is positive
        tensors = [self.made.weight]
        if norm:
            self.norm.weight.data.uniform_(0.5, 1.5)
            self.norm.weight.data[3] = self.norm.weight.data[1]
            self.norm.running_mean.uniform_(-0.2, 0.2)
            self.norm.bias.data.uniform_(-0.1, 0.1)
            tensors += [self.norm.running_mean, self.norm.bias]
        else:
            tensors += [self.made.bias]
        with torch.no_grad():
            tensors[1][1] = self.made(torch.cat(photos()))[:, 1].mean() * (1 if norm else -1)
        for tensor in tensors:
            tensor.data[3] = 2 * tensor.data[1]
        self.one_norm.running_mean.uniform_(0.5, 1.5)
        self.eval()

    def forward(self, pixel_values):
        x = self.norm(self.made(pixel_values)).relu()
        tokens = x.flatten(2).mT
        y = torch.cat([self.one_norm(self.one(x)), self.two(x)], 1).flatten(2).mT
        return torch.cat([y, self.three(tokens), self.four(tokens.contiguous())], -1)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("gone", [1, 3])
def test_what_another_channel_can_replace_goes_without_a_change(monkeypatch, norm, gone):
    monkeypatch.setattr(solving, "RIDGE", 1e-9)
    model = Readers(norm)
    smaller, kept = pruned(model, [gone], "made")
    assert not torch.allclose(logits(smaller), logits(model), atol=1e-2)
    assert least_squares(model, smaller, kept, photos(8)) == {}
    assert smaller.made.weight.shape[0] == 7
    assert torch.allclose(logits(smaller), logits(model), atol=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_repair_brings_the_outputs_nearer_and_each_layer_runs_once_a_batch(seed):
    model = Net(width=8, hidden=16, norm=seed % 2 == 0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    group, width, count = ("stem", 8, 3) if seed % 3 == 0 else ("wide", 16, 4 + seed % 8)
    smaller, kept = pruned(model, torch.randperm(width, generator=generator)[:count].tolist(), group)
    before, whole = error(model, smaller), copy.deepcopy(model.state_dict())
    model, smaller = counted(model), counted(smaller)
    least_squares(model, smaller, kept, photos())
    assert model.calls == dict.fromkeys(LAYERS, 1 + 3)
    changed = LAYERS if group == "stem" else LAYERS[1:]
    assert all(smaller.calls[name] <= 1 + 2 * 3 for name in LAYERS)
    assert all(smaller.calls[name] == 1 + 2 * 3 for name in changed[1:])
    assert error(model, smaller) < 0.9 * before
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())
    assert_all_is_over(model, smaller)


def test_zeros_of_sparse_parameters_stay_and_the_outputs_get_nearer():
    model = Net()
    with torch.no_grad():
        zeros = {name: torch.rand_like(model.get_submodule(name).weight) < 0.5 for name in ("narrow", "classify")}
    for name, zero in zeros.items():
        model.get_submodule(name).weight.data[zero] = 0
    smaller, kept = pruned(model, [0, 1, 2, 3])
    before = {name: smaller.get_submodule(name).weight == 0 for name in zeros}
    lost = error(model, smaller)
    least_squares(model, smaller, kept, photos(), ["narrow.weight"])
    assert (smaller.narrow.weight == 0).equal(before["narrow"])
    assert (smaller.classify.weight == 0).sum() < before["classify"].sum() / 2
    assert error(model, smaller) < 0.9 * lost


def test_where_outputs_are_added_a_layer_makes_up_for_what_the_other_lacks(monkeypatch):
    model = Net()
    model.stem.bias.data += 0.5
    smaller, kept = pruned(model, [0, 1], "stem")
    for trial in (blind := copy.deepcopy(smaller), seeing := copy.deepcopy(smaller)):
        trial.stem.bias.data -= 0.3  # what the skip lacks; the layer itself is not repaired
        monkeypatch.setattr(
            repairing, "find_places", lambda *arguments, trial=trial: _found(*arguments, with_skip=trial is seeing)
        )
        least_squares(model, trial, kept, photos())
    index = torch.from_numpy(kept["stem", "weight", 0])
    whole = sums(model)[:, index]
    assert (sums(seeing) - whole).square().mean() < 0.7 * (sums(blind) - whole).square().mean()


def _found(model, images, with_skip):
    places, stay = find_places(model, images)
    places = [place for place in places if place.layer == "narrow"]
    if not with_skip:
        places[0].skip = None
    return places, stay


def sums(model):
    """Return what the residual block gives."""
    seen = []
    handle = model.classify.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    logits(model)
    handle.remove()
    return torch.cat(seen)


class Blocks(nn.Module):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()) for _ in range(3))
        self.narrow = nn.ModuleList(nn.Conv2d(16, 8, 1) for _ in range(3))
        self.classify = nn.Linear(8, 5)
        self.dropped = set()
        self.eval()

    def forward(self, pixel_values):
        x = self.stem(pixel_values)
        for number, (wide, narrow) in enumerate(zip(self.blocks, self.narrow, strict=True)):
            x = x if number in self.dropped else x + narrow(wide(x))
        return {"logits": self.classify(x.mean((2, 3)))}


def test_a_block_makes_up_for_one_that_was_dropped_before_it():
    model = Blocks()
    smaller = copy.deepcopy(model)
    smaller.dropped = {1}
    smaller.classify = nn.Identity()  # so that it is no layer, and is not repaired
    lost = (sums(model) - logits(smaller)).square().mean()
    least_squares(model, smaller, {}, photos())
    assert (sums(model) - logits(smaller)).square().mean() < 0.3 * lost


def test_images_are_taken_until_a_layer_has_enough_samples(monkeypatch):
    monkeypatch.setattr(repairing, "SAMPLES", 6 * 8 * 8 + 1)
    model, taken = Net(), []
    smaller, kept = pruned(model, [0, 1, 2, 3])
    monkeypatch.setattr(repairing, "find_places", lambda *arguments: (find_places(*arguments)[0][:3], {}))

    def batches():
        for images in photos(20):
            taken.append(images)
            yield images

    least_squares(model, smaller, kept, batches())
    assert len(taken) == 2
    monkeypatch.setattr(repairing, "find_places", find_places)
    least_squares(model, smaller, kept, batches())
    assert len(taken) == 2 + 20  # of the classifier's input, an image is one sample


def test_layers_with_too_many_inputs_stay_as_they_are(monkeypatch):
    model = Net()
    smaller, kept = pruned(model, [0, 1], "stem")
    monkeypatch.setattr(repairing, "MOST_INPUTS", 9 * 6 - 1)
    stay = least_squares(model, smaller, kept, photos())
    assert stay == {"wide": "it has more than 53 inputs"}
    assert torch.equal(smaller.wide.weight, model.wide.weight[:, torch.from_numpy(kept["wide", "weight", 1])])


@dataclass(frozen=True)
class Calibration:
    """Images that need no processor."""

    images: Dataset

    def pixel_values(self):
        yield from DataLoader(self.images, 16)


def repaired(model, smaller, kept, images=24, **options):
    """Return the row of a repair by so many images, and what was logged."""
    lines = []
    context = SimpleNamespace(log=lines.append, sparse_parameters=())
    calibration = Calibration([image for batch in photos(images) for image in batch[:1]])
    return repair(model, smaller, kept, calibration, context, PruneSection(**options)), lines


def adds(value):
    """Return a change of a model that can be recognised."""

    def change(trial, *_):
        trial.classify.bias.data += value
        return {}

    return change


@pytest.mark.parametrize(
    ("errors", "stays", "after", "added"),
    [
        ([0.5, 0.3, 0.2], ["least_squares", "batch_norm"], 0.2, 11),
        ([0.5, 0.3, 0.4], ["least_squares"], 0.3, 1),
        ([0.5, 0.6, 0.4], ["batch_norm"], 0.4, 10),
        ([0.5, 0.5, 0.6], [], 0.5, 0),
    ],
)
def test_what_lowers_the_error_of_held_out_images_stays(monkeypatch, errors, stays, after, added):
    model = Net()
    smaller, kept = pruned(model, [0, 1, 2, 3])
    monkeypatch.setattr(kept_repair, "least_squares", lambda whole, trial, *_: adds(1)(trial))
    monkeypatch.setattr(kept_repair, "reestimate_batch_norm", adds(10))
    monkeypatch.setattr(kept_repair, "output_error", lambda *_: found.pop(0))
    found, before = list(errors), smaller.classify.bias.clone()
    row, (line,) = repaired(model, smaller, kept)
    assert row == {"repaired": stays, "output_error_before": 0.5, "output_error_after": after}
    assert torch.equal(smaller.classify.bias, before + added)
    assert (" and ".join(stays) or "nothing helps") in line


def test_batch_norms_that_were_asked_for_are_re_estimated_whatever_comes_of_it(monkeypatch):
    model = Net()
    smaller, kept = pruned(model, [0, 1, 2, 3])
    monkeypatch.setattr(kept_repair, "reestimate_batch_norm", adds(1e3))
    row, _ = repaired(model, smaller, kept, repair="batch_norm")
    assert row["repaired"] == ["batch_norm"]
    assert row["output_error_after"] > row["output_error_before"]


@pytest.mark.parametrize(("images", "held_out"), [(24, [0, 1, 2]), (9, [0]), (7, range(7))])
def test_a_repair_is_judged_by_images_that_it_did_not_see_where_there_are_eight(monkeypatch, images, held_out):
    model = Net(norm=False)
    smaller, kept = pruned(model, [0, 1, 2, 3])
    seen, judged = [], []

    def error_of(model, batches, expected):
        judged.append(torch.cat(batches))
        return 1.0

    monkeypatch.setattr(kept_repair, "reestimate_batch_norm", adds(0))
    monkeypatch.setattr(kept_repair, "least_squares", lambda *arguments: seen.extend(arguments[3]) or {})
    monkeypatch.setattr(kept_repair, "output_error", error_of)
    repaired(model, smaller, kept, images)
    every = torch.cat([batch[:1] for batch in photos(images)])
    assert all(torch.equal(each, every[list(held_out)]) for each in judged)
    others = [number for number in range(images) if images < 8 or number not in held_out]
    assert torch.equal(torch.cat(seen), every[others])


def test_least_squares_bring_held_out_images_nearer_and_layers_that_stay_are_named(monkeypatch):
    model = Net()
    model.narrow.register_forward_hook(lambda layer, args, output: output.square())
    smaller, kept = pruned(model, [0, 1, 2, 3])
    monkeypatch.setattr(kept_repair, "reestimate_batch_norm", adds(1e3))
    lost = error(model, smaller)
    row, _ = repaired(model, smaller, kept)
    assert row["repaired"] == ["least_squares"]
    assert row["unrepaired_layers"] == {"narrow": "it is more than a product with its weight"}
    assert row["output_error_after"] < row["output_error_before"]
    assert error(model, smaller) < lost
