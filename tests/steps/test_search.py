"""`target.accuracy`: the smallest model that loses no more is found, trained once, and found again after a kill."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_compress.data import load_data
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.sections.base import validate
from hf_compress.sections.data import DataSection
from hf_compress.steps.pruning import loop, recovery
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.gradual import GradualPruning
from hf_compress.steps.pruning.remove.weights import prunable_weights, sparsity
from hf_compress.tasks.base import Metric
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.training.context import Context

SPLITS = {"train": "train[:40]", "validation": "train[300:340]", "test": "train[400:440]"}


@pytest.fixture
def context(tmp_path):
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    data = load_data(DataSection(path="digits", splits=SPLITS), 0)
    return Context(data, processor, None, 0, tmp_path, log=lambda line: None, resumable=True)


@pytest.fixture
def model():
    torch.manual_seed(0)
    options = {"embedding_size": 8, "hidden_sizes": [16], "depths": [1], "layer_type": "basic", "num_labels": 10}
    return ResNetForImageClassification(ResNetConfig(**options)).eval()


@pytest.fixture
def judged(monkeypatch):
    """Accuracy falls by a tenth of the sparsity; one is noted for each model that is judged."""
    seen = []

    def evaluate(model, processor, data, split, task):
        seen.append(sparsity(prunable_weights(model, set())))
        lost = 0.1 * seen[-1]
        return {task.deciding.name: 0.9 - lost if task.deciding.higher_is_better else 0.1 + lost}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    return seen


def searched(model, context, allowed, epochs=0, **options):
    options = {"granularity": "weight", "floor": 0.0, "recovery": {"epochs": epochs}} | options
    config = PruneSection(target={"accuracy": allowed}, iterative=False, **options)
    return loop.prune_model(copy.deepcopy(model), context, config)


def error_task():
    task = copy.copy(CLASSIFICATION)
    task.deciding = Metric("error", "error", higher_is_better=False)
    return task


@pytest.mark.parametrize("allowed", [0.03, 0.055, 0.08])
@pytest.mark.parametrize("lower", [False, True])
def test_the_smallest_model_within_the_loss_is_found_and_one_step_more_would_lose_more(
    model, context, judged, allowed, lower
):
    context = replace(context, task=error_task() if lower else CLASSIFICATION)
    result = searched(model, context, allowed)
    rows, found = result.details["rounds"], sparsity(prunable_weights(result.model, set()))
    assert result.details["target_reached"] and "missed" not in result.details
    assert len(rows) == 7 and [row["round"] for row in rows] == list(range(1, 8))
    within = [row for row in rows if row["kept"]]
    beyond = [row for row in rows if not row["kept"]]
    assert found == within[-1]["sparsity"] == max(row["sparsity"] for row in within)
    assert 0.1 * found <= allowed < 0.1 * min(row["sparsity"] for row in beyond)
    assert min(row["amount"] for row in beyond) - within[-1]["amount"] <= 1.01 / 2**7
    assert all(row["budget"]["target"] == {"accuracy": allowed} for row in rows)


def test_where_nothing_is_lost_all_but_the_floor_goes(model, context, judged):
    result = searched(model, context, 0.5, floor=0.2)
    assert sparsity(prunable_weights(result.model, set())) == pytest.approx(0.8, abs=0.01)


def test_a_loss_that_no_candidate_keeps_is_refused_by_name(model, context, judged):
    with pytest.raises(
        RunError, match=r"'prune\.target\.accuracy' 0 cannot be kept: even sparsity 0\.8% costs more of"
    ):
        searched(model, context, 0.0)


@pytest.mark.parametrize("worse", [False, True])
def test_what_was_found_is_trained_once_and_left_alone_where_training_makes_it_worse(
    model, context, judged, monkeypatch, worse
):
    trained = []

    def train(candidate, *_, **__):
        trained.append(sparsity(prunable_weights(candidate, set())))
        with torch.no_grad():
            candidate.classifier[1].bias.fill_(1.0)
            for weight in prunable_weights(candidate, set()).values() if worse else ():
                weight[0] = 0.0
        return {}

    monkeypatch.setattr(recovery, "train", train)
    lines = []
    result = searched(model, replace(context, log=lines.append), 0.03, epochs=2)
    *rows, last = result.details["rounds"]
    assert trained == [max(row["sparsity"] for row in rows if row["kept"])] and len(rows) == 7
    assert last["kept"] is not worse and bool((result.model.classifier[1].bias == 1).all()) is not worse
    lines = [line for line in lines if not line.startswith("repair: ")]
    assert lines[1].startswith("candidate 1 of 7: sparsity 50.0%") and lines[-1].startswith("trained: sparsity")
    assert result.details["target_reached"]


@pytest.mark.parametrize("at", [3, *(pytest.param(at, marks=pytest.mark.long) for at in (1, 5))])
def test_a_search_that_is_killed_goes_on_with_the_next_candidate(model, context, judged, monkeypatch, at):
    whole = searched(model, replace(context, work_folder=context.work_folder / "whole"), 0.03)
    seen = list(judged)
    judged.clear()
    evaluate = loop.evaluate

    def killing(*arguments):
        if len(judged) == at:
            raise KeyboardInterrupt
        return evaluate(*arguments)

    monkeypatch.setattr(loop, "evaluate", killing)
    with pytest.raises(KeyboardInterrupt):
        searched(model, context, 0.03)
    monkeypatch.setattr(loop, "evaluate", evaluate)
    resumed = searched(model, replace(context), 0.03)
    assert judged == seen
    assert resumed.details == whole.details
    weights, others = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_channels_are_searched_and_repaired(model, context):
    result = searched(model, context, 0.05, granularity="channel", floor=0.1, round_to=1, repair="batch_norm")
    rows = [row for row in result.details["rounds"] if row["kept"]]
    assert rows[-1]["parameters"] == max(row["parameters"] for row in rows) > 0
    assert "output_error_after" in rows[-1]


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"target": {"accuracy": 0.01}}, r"set iterative: false; in rounds, max_drop says what may be lost"),
        ({"target": {"accuracy": 0.01, "macs": 0.5}}, "name exactly one of sparsity, parameters, macs, latency"),
        ({"target": {"latency": 0.3}, "granularity": "weight"}, "zeroed weights do not change latency"),
        (
            {"target": {"latency": 0.3}, "granularity": "n:m"},
            "target does nothing here: the pattern says how much goes",
        ),
        ({"budget": "latency"}, "budget does nothing here: scopes 'cost' and 'damage' divide importance by it"),
        ({"target": {"accuracy": 0.01}, "iterative": False}, None),
        ({"target": {"accuracy": 0.0}, "iterative": False, "granularity": "weight"}, None),
        ({"target": {"latency": 0.3}, "layout": "config"}, None),
        ({"budget": "latency", "scope": "cost"}, None),
    ],
    ids=str,
)
def test_what_does_not_fit_together_is_refused_in_the_recipe(options, refused):
    if refused is None:
        validate(PruneSection, options)
        return
    with pytest.raises(UsageError, match=refused):
        validate(PruneSection, options)


def test_pruning_in_a_training_has_no_accuracy_to_search_by():
    config = PruneSection(granularity="weight", target={"accuracy": 0.01}, iterative=False)
    with pytest.raises(UsageError, match="no accuracy to stop at: name the final sparsity"):
        GradualPruning(config)
