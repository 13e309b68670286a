"""Patterns of pruning against masks worked out by hand, and against the step's own."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_compress.steps.pruning.blocks import Blocks, LowestInGroup, pattern_masks
from hf_compress.steps.pruning.config import PruneConfig
from hf_compress.steps.pruning.remove.weights import WeightPruner

SHAPES = [(8, 4), (8, 4, 3, 3)]


def mask(scores, pattern, amount, **options):
    return pattern_masks({"layer": scores}, pattern, options.pop("scope", "layer"), amount, **options)["layer"]


def test_blocks_of_outputs_go_by_their_mean():
    scores = torch.tensor([[1.0, 9.0], [2.0, 0.0], [3.0, 1.0], [3.0, 1.0]])
    expected = torch.tensor([[0, 1], [0, 1], [1, 0], [1, 0]]).bool()
    assert torch.equal(mask(scores, Blocks(2, 1), 0.5), expected)


def test_columns_of_a_convolution_are_one_input_at_one_place_of_the_kernel():
    scores = torch.ones(2, 2, 1, 2)
    scores[:, 1, 0, 0] = 0
    assert torch.equal(mask(scores, Blocks(None, 1), 0.25), scores.bool())


def test_two_of_four_inputs_go_and_groups_with_the_least_go_first():
    scores = torch.tensor([[4.0, 1.0, 2.0, 3.0, 40.0, 10.0, 20.0, 30.0]])
    assert torch.equal(mask(scores, LowestInGroup(2, 4), 0.25), torch.tensor([[1, 0, 0, 1, 1, 1, 1, 1]]).bool())
    assert torch.equal(mask(scores, LowestInGroup(2, 4), 0.5), torch.tensor([[1, 0, 0, 1, 1, 0, 0, 1]]).bool())


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.sampled_from(SHAPES), st.sampled_from([(1, 4), (2, 4), (3, 4), (1, 2)]))
def test_every_group_loses_n_of_m_neighbouring_inputs(seed, shape, numbers):
    n, m = numbers
    scores = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    kept = mask(scores, LowestInGroup(n, m), n / m).movedim(1, -1).reshape(-1, m)
    scores = scores.movedim(1, -1).reshape(-1, m)
    assert (kept.sum(dim=1) == m - n).all()
    assert (scores.masked_fill(kept, 0).amax(dim=1) <= scores.masked_fill(~kept, 1).amin(dim=1)).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.sampled_from(["layer", "global"]), st.floats(0.05, 0.95))
def test_single_entries_are_those_of_prune_weights(seed, scope, amount):
    generator = torch.Generator().manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(6, 5))
    for layer in model:
        torch.nn.init.normal_(layer.weight, generator=generator)
    weights = {f"{name}.weight": layer.weight for name, layer in model.named_children()}
    masks = pattern_masks({k: w.detach().abs() for k, w in weights.items()}, Blocks(1, 1), scope, amount, 0.1)
    WeightPruner(model, PruneConfig(granularity="weight", scope=scope), set()).prune(model, amount)
    for name, weight in weights.items():
        assert torch.equal(masks[name], weight != 0)


@pytest.mark.parametrize(("pattern", "dim"), [(Blocks(None, 1), 1), (Blocks(1, None), 0)])
def test_whole_rows_and_columns_of_a_linear_layer_are_those_of_dim(pattern, dim):
    model = torch.nn.Sequential(torch.nn.Linear(6, 8))
    expected = mask(model[0].weight.detach().abs(), pattern, 0.5)
    WeightPruner(model, PruneConfig(granularity="weight", dim=dim), set()).prune(model, 0.5)
    assert torch.equal(expected, model[0].weight != 0)


def test_layers_that_cannot_be_cut_do_not_fit():
    weight = torch.zeros(8, 6, 1, 1)
    assert Blocks(4, 1).fits(weight) and Blocks(None, 3).fits(weight) and LowestInGroup(1, 3).fits(weight)
    assert not Blocks(3, 1).fits(weight) and not Blocks(1, 4).fits(weight) and not LowestInGroup(2, 4).fits(weight)
