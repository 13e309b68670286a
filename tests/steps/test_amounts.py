"""Whatever the criterion and however many scores are equal: what was asked goes, and no more."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector

from hf_compress.ground.errors import RunError
from hf_compress.steps.pruning.allocate.costs import unit_macs
from hf_compress.steps.pruning.allocate.masks import keep_masks
from hf_compress.steps.pruning.allocate.units import Ranked, allocate, kept_width
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.weights import PatternPruner, WeightPruner, prunable_weights, sparsity
from hf_compress.steps.pruning.score.criteria import register_importance
from hf_compress.steps.pruning.tracing.groups import find_groups


def registered(name, score):
    """Register a criterion that scores every entry with `score`, and slices with their mean."""

    @register_importance(name)
    def criterion(weight, dim, n):
        scores = score(weight)
        return scores if dim is None else scores.transpose(0, dim).flatten(1).mean(dim=1)

    return name


CRITERIA = [
    "l1",
    "l2",
    "random",
    registered("test_variance", lambda weight: (weight - weight.mean()).square()),
    registered("test_negative", lambda weight: -weight.abs() - 1),
    registered("test_constant", torch.ones_like),
    registered("test_zeros_are_best", lambda weight: torch.where(weight == 0, 100.0, weight.abs())),
]
BROKEN = {
    registered("test_nan", lambda weight: weight / 0 * 0): "nan",
    registered("test_minus_infinity", lambda weight: weight.abs().log() * torch.inf): "-inf",
    registered("test_infinity", lambda weight: weight.abs() / 0): "inf",
}


def network():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 16, 3), nn.Conv2d(16, 8, 3), nn.Linear(16, 20))
    with torch.no_grad():
        model[1].weight[:4] = 0  # zeros that were there before
        model[2].weight.fill_(0.5)
    return model


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("options", [{}, {"scope": "global"}, {"scope": "global", "floor": 0.1}, {"dim": 0}], ids=str)
def test_rounds_zero_what_was_asked_under_every_criterion(criterion, options):
    model = network()
    weights = prunable_weights(model, set())
    config = PruneSection(**{"granularity": "weight", "floor": 0.0, "importance": criterion} | options)
    for amount in (0.001, 0.1, 0.5, 0.6, 0.75, 0.8):
        before = {name: weight == 0 for name, weight in weights.items()}
        WeightPruner(model, config, set()).prune(model, amount)
        assert all((weight == 0)[before[name]].all() for name, weight in weights.items())
        for part in [weights] if config.scope == "global" else [{name: weights[name]} for name in weights]:
            units = [len(weight) if config.dim == 0 else weight.numel() for weight in part.values()]
            zero_before = torch.cat([before[name].flatten() for name in part]).double().mean().item()
            assert sparsity(part) == pytest.approx(max(amount, zero_before), abs=0.51 / sum(units))


@settings(deadline=None, max_examples=60)
@given(
    layers=st.lists(st.lists(st.integers(-1, 3), min_size=1, max_size=30), min_size=1, max_size=4),
    amount=st.floats(0, 1),
    floor=st.floats(0, 0.9),
    scope=st.sampled_from(["layer", "global"]),
)
def test_masks_have_the_asked_share_whatever_ties(layers, amount, floor, scope):
    scores = {str(number): torch.tensor(values, dtype=torch.float) for number, values in enumerate(layers)}
    masks = keep_masks(scores, scope, amount, floor)
    gone = {name: int((~mask).sum()) for name, mask in masks.items()}
    asked = min(amount, 1 - floor)
    if scope == "global":
        assert abs(sum(gone.values()) - asked * sum(map(len, layers))) <= 0.5
    else:
        assert all(abs(gone[name] - asked * len(values)) <= 0.5 for name, values in scores.items())


def test_what_is_gone_already_is_never_kept_by_the_floor():
    scores = {"dead": torch.full((10,), -torch.inf), "alive": torch.arange(30.0)}
    masks = keep_masks(scores, "global", 0.5, floor=0.5)
    assert not masks["dead"].any()
    assert masks["alive"].tolist() == [False] * 10 + [True] * 20


@settings(deadline=None, max_examples=80)
@example(groups=[([1.0] * 64, 1), ([1.0] * 128, 1), ([1.0] * 32, 1)], amount=0.1, floor=0.1)
@example(groups=[([0.0] * 8, 4), ([0.0] * 8, 1)], amount=0.5, floor=0.1)
@given(
    groups=st.lists(
        st.tuples(st.lists(st.integers(0, 2).map(float), min_size=2, max_size=40), st.sampled_from([1, 2, 3])),
        min_size=1,
        max_size=4,
    ),
    amount=st.floats(0, 1),
    floor=st.floats(0, 0.9),
)
def test_channels_lose_the_asked_share_across_groups_whatever_ties(groups, amount, floor):
    config = PruneSection(scope="global", round_to=1, floor=floor)
    candidates = [
        Ranked(str(number), torch.tensor(scores), unit, len(scores) * unit)
        for number, (scores, unit) in enumerate(groups)
    ]
    lost = {name: len(units) for name, units in allocate(candidates, amount, config).items()}
    channels = {group.name: lost.get(group.name, 0) * group.unit for group in candidates}
    most = sum(group.width - kept_width(group.width, group.unit, 1.0, config) for group in candidates)
    asked = min(round(amount * sum(group.width for group in candidates)), most)
    assert asked <= sum(channels.values()) <= asked + max(group.unit for group in candidates) - 1


def test_equal_channels_go_in_order():
    config = PruneSection(scope="global", round_to=1, floor=0.0)
    equal = [Ranked(name, torch.ones(500), 1, 500) for name in "ab"]
    assert allocate(equal, 0.3, config) == {"a": list(range(300))}
    config = PruneSection(scope="layer", round_to=1, floor=0.0)
    assert allocate(equal, 0.3, config) == {name: list(range(150)) for name in "ab"}


@pytest.mark.parametrize(
    ("scope", "gone"), [("global", {"cheap": [0, 1, 2], "dear": [3]}), ("cost", {"cheap": [0], "dear": [1, 2, 3]})]
)
def test_with_scope_cost_the_dear_channels_go_although_the_cheap_ones_matter_less(scope, gone):
    config = PruneSection(importance="taylor", scope=scope, round_to=1, floor=0.0)
    cheap = Ranked("cheap", torch.tensor([1.0, 2.0, 3.0, 40.0]), 1, 4, cost=2.0)
    dear = Ranked("dear", torch.tensor([50.0, 8.0, 6.0, 4.0]), 1, 4, cost=10.0)
    plan = allocate([cheap, dear], 0.5, config)
    assert {name: sorted(units) for name, units in plan.items()} == gone


def test_a_unit_costs_what_its_maker_and_its_readers_compute_with_it():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.made, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, stride=2, groups=8)
            self.read, self.classify = nn.Conv2d(8, 4, 1), nn.Linear(4, 5)

        def forward(self, pixel_values):
            maps = self.depthwise(self.norm(self.made(pixel_values)).relu())
            return self.classify(self.read(maps).relu().mean((2, 3)))

    model, image = Pair().eval(), torch.rand(1, 3, 16, 16)
    groups, _ = find_groups(model, image)
    costs = unit_macs(model, groups, image)
    assert costs == {"made": 3 * 9 * 256 + 9 * 64 + 4 * 64, "read": 8 * 64 + 5}


@pytest.mark.parametrize(
    ("granularity", "message"),
    [
        ("weight", "zeroed weights save no MACs: scope 'cost' needs granularity 'channel'"),
        ("n:m", "scope does nothing here: the pattern says how much goes"),
    ],
)
def test_zeroed_weights_have_no_scope_cost(granularity, message):
    with pytest.raises(ValueError, match=message):
        PruneSection(granularity=granularity, scope="cost")


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_pattern_that_is_there_stays_under_every_criterion(criterion):
    model = nn.Sequential(nn.Linear(16, 20))
    config = PruneSection(granularity="n:m", importance=criterion)
    pruner = PatternPruner(model, config, set())
    for _ in range(2):
        pruner.prune(model, 0.5)
        assert pruner.sparsity(model) == 0.5


@pytest.mark.parametrize("criterion", BROKEN)
@pytest.mark.parametrize("granularity", ["weight", "n:m"])
def test_scores_that_cannot_be_ranked_are_refused(criterion, granularity):
    model = nn.Sequential(nn.Linear(16, 20))
    before = parameters_to_vector(model.parameters()).clone()
    config = PruneSection(granularity=granularity, importance=criterion)
    with pytest.raises(RunError, match=f"importance '{criterion}' gives the score {BROKEN[criterion]} in '0.weight'"):
        if granularity == "n:m":
            PatternPruner(model, config, set()).prune(model, 0.5)
        else:
            WeightPruner(model, config, set()).prune(model, 0.3)
    assert torch.equal(parameters_to_vector(model.parameters()), before)
