"""Weight pruning against torch.nn.utils.prune: the same entries must become zero."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

from hf_compress.ground.errors import RunError
from hf_compress.steps.pruning.allocate import masks as masks_module
from hf_compress.steps.pruning.allocate.masks import keep_masks
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.weights import WeightPruner, prunable_weights, sparsity
from hf_compress.training.callbacks import HoldMasks


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3, groups=2), nn.Linear(8, 5))


def layers(model):
    return [module for module in model if isinstance(module, nn.Conv2d | nn.Linear)]


def config(**options):
    return PruneSection(granularity="weight", floor=0, **options)


def assert_same_weights(ours, theirs):
    for mine, reference in zip(layers(ours), layers(theirs), strict=True):
        assert torch.equal(mine.weight, reference.weight)


@settings(deadline=None, max_examples=20)
@given(amount=st.floats(0.01, 0.99), seed=st.integers(0, 1000), importance=st.sampled_from(["l1", "l2", "ln"]))
def test_layer_scope_zeroes_what_l1_unstructured_zeroes(amount, seed, importance):
    ours, theirs = network(seed), network(seed)
    WeightPruner(ours, config(importance=importance), set()).prune(ours, amount)
    for layer in layers(theirs):
        prune.l1_unstructured(layer, "weight", amount=amount)
    assert_same_weights(ours, theirs)


@settings(deadline=None, max_examples=20)
@given(amount=st.floats(0.01, 0.99), seed=st.integers(0, 1000))
def test_global_scope_zeroes_what_global_unstructured_zeroes(amount, seed):
    ours, theirs = network(seed), network(seed)
    WeightPruner(ours, config(scope="global"), set()).prune(ours, amount)
    prune.global_unstructured(
        [(layer, "weight") for layer in layers(theirs)], pruning_method=prune.L1Unstructured, amount=amount
    )
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize(("importance", "n"), [("l1", 1), ("l2", 2), ("ln", 3), ("ln", 0.5)])
@pytest.mark.parametrize("dim", [0, 1])
def test_dim_zeroes_what_ln_structured_zeroes(importance, n, dim):
    ours, theirs = network(), network()
    order = {"n": n} if importance == "ln" else {}
    WeightPruner(ours, config(importance=importance, dim=dim, **order), set()).prune(ours, 0.5)
    for layer in layers(theirs):
        prune.ln_structured(layer, "weight", amount=0.5, n=n, dim=dim)
    assert_same_weights(ours, theirs)


def test_the_floor_keeps_every_layer_alive_under_global_scope():
    model = network()
    with torch.no_grad():
        model[0].weight.mul_(1e-6)
    WeightPruner(model, config(scope="global").model_copy(update={"floor": 0.2}), set()).prune(model, 0.7)
    kept = (model[0].weight != 0).float().mean().item()
    assert kept == pytest.approx(0.2, abs=0.01)
    assert sparsity(prunable_weights(model, set())) == pytest.approx(0.7, abs=0.01)


def test_the_floor_keeps_a_part_of_every_layer_whatever_is_asked():
    model = network()
    WeightPruner(model, config().model_copy(update={"floor": 0.25}), set()).prune(model, 0.9)
    assert [sparsity({"": layer.weight}) for layer in layers(model)] == pytest.approx([0.75] * 3, abs=0.01)


def test_random_pruning_in_rounds_keeps_earlier_zeros():
    model = network()
    weights = prunable_weights(model, set())
    pruner = WeightPruner(model, config(importance="random"), set())
    pruner.prune(model, 0.3)
    before = {name: weight == 0 for name, weight in weights.items()}
    pruner.prune(model, 0.6)
    for name, weight in weights.items():
        assert (weight == 0)[before[name]].all()
    assert sparsity(weights) == pytest.approx(0.6, abs=0.02)


def test_excluded_layers_are_left_alone():
    model = network()
    before = copy.deepcopy(model[0].weight)
    WeightPruner(model, config(), {"0"}).prune(model, 0.5)
    assert torch.equal(model[0].weight, before)


def test_a_model_without_weights_to_prune_is_an_error():
    with pytest.raises(RunError, match="nothing can be pruned"):
        prunable_weights(nn.Sequential(nn.BatchNorm2d(3)), set())


def test_masks_hold_through_optimizer_steps_with_momentum():
    model = network()
    weights = prunable_weights(model, set())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model[0](torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    WeightPruner(model, config(), set()).prune(model, 0.5)
    zeros = {name: weight == 0 for name, weight in weights.items()}
    callback = HoldMasks(weights.values())
    callback.on_train_begin(None, None, None)
    for _ in range(3):
        model[0](torch.randn(2, 3, 8, 8)).sum().backward()
        optimizer.step()
        callback.on_optimizer_step(None, None, None)
    for name, weight in weights.items():
        assert (weight[zeros[name]] == 0).all()
    assert not torch.equal(model[0].weight, network()[0].weight)


@settings(deadline=None, max_examples=50)
@given(
    values=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    share=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
def test_equal_scores_go_in_order_and_the_count_is_exact(values, share, dtype):
    mask = keep_masks({"layer": torch.tensor(values, dtype=dtype)}, "layer", share, floor=0)["layer"]
    order = sorted(range(len(values)), key=lambda index: values[index])  # Python's sort is stable
    gone = order[: round(share * len(values))]
    assert mask.tolist() == [index not in gone for index in range(len(values))]


@settings(deadline=None)
@given(
    pattern=st.sampled_from(["random", "mostly zero", "sorted", "with the sample's period", "infinite"]),
    share=st.floats(0.01, 0.99),
    seed=st.integers(0, 1000),
)
def test_a_bracket_from_a_sample_finds_what_sorting_finds(pattern, share, seed):
    """In short samples the bracket often misses; periodic scores mislead every sample."""
    scores = torch.rand(4000, generator=torch.Generator().manual_seed(seed))
    if pattern == "mostly zero":
        scores[scores < 0.8] = 0
    elif pattern == "sorted":
        scores = scores.sort().values
    elif pattern == "with the sample's period":
        scores[:: 4000 // 64] = 2
    elif pattern == "infinite":
        scores[scores > 0.7] = torch.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks_module, "SAMPLE", 64)
        mask = keep_masks({"layer": scores}, "layer", share, 0)["layer"]
    lowest = scores.argsort(stable=True)[: round(share * 4000)]
    assert torch.equal(~mask, torch.zeros(4000, dtype=torch.bool).index_fill(0, lowest, True))


def test_global_scope_leaves_each_layer_its_floor_of_best_scores():
    scores = {"small": torch.arange(1.0, 11.0), "large": torch.arange(101.0, 111.0)}
    masks = keep_masks(scores, "global", 0.5, floor=0.2)
    assert masks["small"].tolist() == [False] * 8 + [True] * 2
    assert masks["large"].tolist() == [False] * 2 + [True] * 8
