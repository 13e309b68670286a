"""The criterion `obs` for single weights: who goes first in a row, at what loss, in which pattern."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.weights import PatternPruner, WeightPruner
from hf_compress.steps.pruning.repair import moments as solving
from hf_compress.steps.pruning.repair.least_squares import least_squares
from hf_compress.steps.pruning.score import entries
from hf_compress.steps.pruning.score.criteria import CRITERIA
from hf_compress.steps.pruning.score.entries import weight_losses


def calibration(batches=3, side=8, seed=1):
    generator = torch.Generator().manual_seed(seed)
    images = [torch.rand(16, 3, side, side, generator=generator) for _ in range(batches)]
    made = SimpleNamespace(pixel_values=lambda: iter(images))
    made.first = lambda count: made
    return made


def config(**options):
    options = {"granularity": "weight", "importance": "obs", "iterative": False} | options
    if options["granularity"] == "weight":
        options |= {"floor": 0.0}
    return PruneSection(**options)


def correlated(inputs, samples=400, seed=0):
    """The second moments of inputs that have much in common."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(samples, inputs, generator=generator) @ torch.randn(inputs, inputs, generator=generator)
    return (mixed.T @ mixed / samples).double()


def least_error(row, gram, left):
    """What is left of the squared output when the entries that are left are solved anew."""
    whole = row @ gram @ row
    if not left:
        return whole.item()
    wanted = gram[left] @ row
    return (whole - wanted @ torch.linalg.lstsq(gram[left][:, left], wanted[:, None]).solution[:, 0]).item()


def test_two_rows_solved_by_hand(monkeypatch):
    """The inverse of [[1, a], [a, 1]] has 1/(1 - a^2) on its diagonal; the third input has to do with neither."""
    monkeypatch.setattr(entries, "DAMPING", 1e-12)
    gram = torch.tensor([[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 4.0]]).double()
    weight = torch.tensor([[1.0, 2.0, 3.0], [1.0, -1.0, 0.1]]).double()
    losses = weight_losses(weight[None], gram[None], 3, None)[0]
    # row 1: the first goes at 1 * 0.75, the second is then 2 + 0.5 and goes at 6.25, the third at 9 * 4
    # row 2: the third goes at 0.04; of two equal ones the first at 0.75, the second, then -1 + 0.5, for no less
    expected = torch.tensor([[0.75, 6.25, 36.0], [0.75, 0.75, 0.04]]).double()
    assert torch.allclose(losses, expected, rtol=1e-5)
    assert losses[1, 0] < losses[1, 1]


def test_losses_are_those_of_the_nearest_row_without_what_went(monkeypatch):
    monkeypatch.setattr(entries, "DAMPING", 1e-10)
    torch.manual_seed(0)
    gram, weight = correlated(7), torch.randn(4, 7).double()
    for row, losses in zip(weight, weight_losses(weight[None], gram[None], 7, None)[0], strict=True):
        left, before = list(range(7)), 0.0
        for entry in losses.argsort().tolist():
            errors = {each: least_error(row, gram, [other for other in left if other != each]) for each in left}
            assert entry == min(errors, key=errors.get)
            left.remove(entry)
            assert losses[entry].item() >= (errors[entry] - before) * (1 - 1e-3)
            before = errors[entry]
        assert losses.sum().item() >= before * (1 - 1e-3)


@pytest.mark.parametrize("pattern", [None, (2, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_what_obs_removes_leaves_less_error_than_what_is_small(seed, pattern):
    """Of 24 inputs half go from each row, freely or 2 of each 4, and what is left is solved anew."""
    torch.manual_seed(seed)
    gram, weight = correlated(24, seed=seed), torch.randn(8, 24).double()

    def error(scores):
        if pattern:
            blocks = scores.view(8, -1, 4)
            keep = (blocks.argsort(2).argsort(2) >= 2).view(8, 24)
        else:
            keep = scores.argsort(1).argsort(1) >= 12
        return sum(
            least_error(row, gram, mask.nonzero().flatten().tolist()) for row, mask in zip(weight, keep, strict=True)
        )

    assert error(weight_losses(weight[None], gram[None], 24, pattern)[0]) < 0.9 * error(weight.abs())


def test_rows_in_parts_and_turns_and_batches_give_every_entry_its_score(monkeypatch):
    torch.manual_seed(0)
    gram = torch.stack([correlated(20, seed=seed) for seed in range(3)])
    weight = torch.randn(3, 5, 20).double()
    whole = weight_losses(weight, gram, 20, None)
    monkeypatch.setattr(entries, "WORK", 2 * 20**2)
    assert torch.allclose(weight_losses(weight, gram, 20, None), whole)
    for group in range(3):
        assert torch.allclose(weight_losses(weight[group, None], gram[group, None], 20, None)[0], whole[group])
    monkeypatch.setattr(entries, "TURNS", 4)
    assert (weight_losses(weight, gram, 20, None).argsort(2)[:, :, 0] == whole.argsort(2)[:, :, 0]).all()
    monkeypatch.setattr(entries, "WIDEST", 8)
    in_parts = weight_losses(weight, gram, 20, (2, 4))
    assert (in_parts > 0).all()
    assert all(len(row.unique()) == 20 for row in weight_losses(weight, gram, 20, None).flatten(0, 1).float())


class Net(nn.Module):
    """A convolution, a depthwise one, a norm, a linear layer and one that counts for ten."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise, self.norm = nn.Conv2d(8, 8, 3, groups=8, stride=2, bias=False), nn.BatchNorm2d(8)
        self.classify = nn.Linear(72, 12)
        self.norm.weight.data[3] = 100
        self.eval()

    def forward(self, pixel_values):
        maps = self.norm(self.depthwise(self.stem(pixel_values).relu())).relu()
        return {"logits": self.classify(maps.flatten(1))}


def scores_of(model, pruner):
    return CRITERIA.get("obs").function(model, pruner.groups(model), calibration())


def test_errors_count_by_what_they_do_to_the_outputs_and_the_model_stays_as_it_is():
    model = Net()
    before = copy.deepcopy(model.state_dict())
    pruner = WeightPruner(model, config(), set())
    scores = scores_of(model, pruner)
    assert {name: values.shape for name, values in scores.items()} == {
        name: (model.get_parameter(name).numel(),) for name in pruner.names
    }
    model.norm.weight.data[3] = 1
    lower = scores_of(model, pruner)
    model.norm.weight.data[3] = 100
    ratio = (scores["depthwise.weight"] / lower["depthwise.weight"]).view(8, 9)
    assert torch.allclose(ratio[3], torch.tensor(1e4), rtol=1e-3)
    assert torch.allclose(ratio[[0, 1, 2, 4, 5, 6, 7]], torch.tensor(1.0), rtol=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_little_memory_means_more_looks_and_the_same_scores(monkeypatch):
    model = Net()
    pruner = WeightPruner(model, config(), set())
    scores = scores_of(model, pruner)
    monkeypatch.setattr(entries, "MEMORY", 1)
    again = scores_of(model, pruner)
    assert list(again) == list(scores)
    assert all(torch.allclose(again[name], values) for name, values in scores.items())


def test_what_is_looked_at_entry_by_entry_counts_by_its_input(monkeypatch):
    monkeypatch.setattr(entries, "MOST_INPUTS", 20)
    model = Net()
    seen = []
    model.classify.register_forward_hook(lambda layer, args, output: seen.append(args[0]))
    with torch.no_grad():
        for images in calibration().pixel_values():
            model(pixel_values=images)
    model.classify._forward_hooks.clear()
    scores = scores_of(model, WeightPruner(model, config(), set()))["classify.weight"].view(12, 72)
    expected = model.classify.weight.square() * torch.cat(seen).square().mean(0)
    assert torch.allclose(scores, expected, rtol=1e-4)


def test_a_layer_in_one_dimension_and_one_that_never_runs_have_scores():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.line, self.unused = nn.Conv1d(3, 4, 3), nn.Linear(5, 2)

        def forward(self, pixel_values):
            return {"logits": self.line(pixel_values.flatten(2))}

    torch.manual_seed(0)
    model = Odd().eval()
    scores = scores_of(model, WeightPruner(model, config(), set()))
    mean_square = torch.stack([images.square().mean() for images in calibration().pixel_values()]).mean()
    assert torch.allclose(scores["line.weight"], 62 * model.line.weight.square().flatten() * mean_square)
    assert torch.allclose(scores["unused.weight"], model.unused.weight.square().flatten())


@pytest.mark.parametrize("dim", [0, 1])
def test_a_slice_counts_as_the_sum_of_its_entries(dim):
    model = Net()
    by_entry = scores_of(model, WeightPruner(model, config(), set()))
    slices = scores_of(model, WeightPruner(model, config(dim=dim), set()))
    for name, values in slices.items():
        entries_of = by_entry[name].view(model.get_parameter(name).shape)
        assert torch.allclose(values, entries_of.transpose(0, dim).flatten(1).sum(1), rtol=1e-4)


def test_a_pattern_holds_and_scores_follow_neighbours_along_the_channels():
    """In a 3x3 kernel the neighbours are channels at one position, not positions."""
    torch.manual_seed(0)
    model = Net()
    model.stem = nn.Conv2d(3, 8, 1)
    model.depthwise = nn.Conv2d(8, 8, 3, stride=2, bias=False)
    pruner = PatternPruner(model, config(granularity="n:m"), set())
    scores = scores_of(model, pruner)
    blocks = scores["depthwise.weight"].view(8, 8, 9).movedim(1, 2).reshape(-1, 4).sort(1).values
    rows = blocks.view(8, -1, 4)
    assert (rows[:, :, 1].amax(1) < rows[:, :, 2].amin(1)).all()  # whatever stays in a row is above all that goes
    pruner.remove(model, scores, 0.5)
    for name in pruner.names:
        weight = model.get_parameter(name)
        assert ((weight.movedim(1, -1).reshape(-1, 4) != 0).sum(1) == 2).all()


class Doubled(nn.Module):
    """A linear layer that reads each of its five numbers twice."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__()
        self.made, self.read = nn.Linear(192, 5), nn.Linear(10, 4)
        self.eval()

    def forward(self, pixel_values):
        made = self.made(pixel_values.flatten(1)).tanh()
        return {"logits": self.read(torch.cat([made, made], dim=1))}


@torch.no_grad()
def test_entries_that_repeat_others_go_and_after_the_repair_nothing_is_missing(monkeypatch):
    monkeypatch.setattr(entries, "DAMPING", 1e-5)
    monkeypatch.setattr(solving, "RIDGE", 1e-7)
    model = Doubled()
    pruned = copy.deepcopy(model)
    pruner = WeightPruner(pruned, config(), {"made"})
    pruner.remove(pruned, scores_of(pruned, pruner), 0.5)
    zeros = pruned.read.weight == 0
    assert (zeros[:, :5] ^ zeros[:, 5:]).all()
    images = next(calibration(seed=2).pixel_values())
    assert (pruned(images)["logits"] - model(images)["logits"]).abs().max() > 0.01
    least_squares(model, pruned, {}, calibration().pixel_values(), pruner.parameter_names)
    assert torch.allclose(pruned(images)["logits"], model(images)["logits"], atol=1e-4)
    assert torch.equal(pruned.read.weight == 0, zeros)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_zeros_of_a_model_that_was_pruned_before_go_first(scope):
    model = Net()
    WeightPruner(model, config(importance="l1"), set()).prune(model, 0.3)
    zeros = {name: model.get_parameter(name) == 0 for name in ("stem.weight", "classify.weight")}
    pruner = WeightPruner(model, config(scope=scope), set())
    pruner.remove(model, scores_of(model, pruner), 0.6)
    assert pruner.sparsity(model) == pytest.approx(0.6, abs=0.01)
    assert all((model.get_parameter(name)[where] == 0).all() for name, where in zeros.items())
