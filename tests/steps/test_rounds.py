"""Rounds of pruning: which are kept, where they stop, and what a pruned model learns from."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor

from hf_compress.data import load_data
from hf_compress.data.images import IGNORED_LABEL, batches, spread
from hf_compress.ground.errors import DoesNotRun, RunError
from hf_compress.sections.data import DataSection
from hf_compress.steps.pruning import loop
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove import pruner
from hf_compress.steps.pruning.score.scoring import score
from hf_compress.training.context import Context

SPLITS = {"train": "train[:40]", "validation": "train[300:340]", "test": "train[400:440]"}


@pytest.fixture
def context(tmp_path):
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    data = load_data(DataSection(path="digits", splits=SPLITS), 0)
    return Context(data, processor, None, 0, tmp_path, log=lambda line: None)


@pytest.fixture
def model():
    torch.manual_seed(0)
    options = {"embedding_size": 8, "hidden_sizes": [16], "depths": [1], "layer_type": "basic", "num_labels": 10}
    return ResNetForImageClassification(ResNetConfig(**options)).eval()


def rounding(granularity):
    return {"round_to": 1} if granularity == "channel" else {}


def pruned(model, context, epochs=0, loss="ce", **options):
    options = {"granularity": "weight"} | options
    if options["granularity"] != "n:m":
        options = {"amount": 0.2, "floor": 0.0} | options
    return loop.prune_model(model, context, PruneSection(**options, recovery={"epochs": epochs, "loss": loss}))


STEM = "resnet.embedder.embedder.convolution"


@pytest.mark.parametrize(
    ("accuracies", "amounts", "kept"),
    [
        ([0.895, 0.885, 0.885], [0.2, 0.4, 0.3], [True, False, False]),
        ([0.885, 0.891, 0.85], [0.2, 0.1, 0.2], [False, True, False]),
        ([0.95, 0.93, 0.89, 0.88, 0.88], [0.2, 0.4, 0.6, 0.8, 0.7], [True, True, True, False, False]),
    ],
)
def test_a_round_may_lose_max_drop_against_the_unpruned_model_and_one_is_tried_again_with_half_the_amount(
    model, context, monkeypatch, accuracies, amounts, kept
):
    answers = iter([0.9, *accuracies])
    monkeypatch.setattr(loop, "evaluate", lambda *_: {"accuracy": next(answers)})
    rounds = pruned(model, context, max_drop=0.01).details["rounds"]
    assert [row["amount"] for row in rounds] == pytest.approx(amounts)
    assert [row["sparsity"] for row in rounds] == pytest.approx(amounts, abs=0.01)
    assert [row["kept"] for row in rounds] == kept


def test_one_shot_is_kept_whatever_it_loses(model, context, monkeypatch):
    answers = iter([0.9, 0.1])
    monkeypatch.setattr(loop, "evaluate", lambda *_: {"accuracy": next(answers)})
    assert [row["kept"] for row in pruned(model, context, iterative=False).details["rounds"]] == [True]


def test_rounds_that_were_kept_stay_where_the_model_does_not_run_when_more_goes(model, context, monkeypatch):
    whole, said = loop.removed_to_target, []

    def broken(best, scores, pruner, gone, config, low, high, time_gone):
        if high > most:
            raise DoesNotRun("the model does not run after the removal of channels")
        return whole(best, scores, pruner, gone, config, low, high, time_gone)

    monkeypatch.setattr(loop, "removed_to_target", broken)
    most = 0.5
    result = pruned(model, replace(context, log=said.append), max_drop=1.0)
    assert [row["kept"] for row in result.details["rounds"]] == [True, True]
    assert said[-1] == "no further round: the model does not run after the removal of channels"
    most = 0.0
    with pytest.raises(DoesNotRun):
        pruned(model, replace(context, work_folder=context.work_folder / "again"), max_drop=1.0)


def test_a_module_that_is_excluded_keeps_the_layers_in_it(model):
    assert loop.excluded_layers(model, ["classifier"]) == {"classifier", "classifier.1"}
    inside = loop.excluded_layers(model, ["*.stages.0.layers.0"])
    assert "resnet.encoder.stages.0.layers.0.layer.1.convolution" in inside
    assert not any(name.startswith("resnet.embedder") for name in inside)


def test_the_last_round_prunes_no_more_than_the_target(model, context):
    result = pruned(model, context, target={"sparsity": 0.3}, max_drop=1.0)
    assert [row["sparsity"] for row in result.details["rounds"]] == pytest.approx([0.2, 0.3], abs=2e-3)
    assert result.details["target_reached"]


def test_batch_norms_get_the_statistics_of_training_images(model, context):
    stem = model.resnet.embedder.embedder
    result = pruned(
        copy.deepcopy(model), context, granularity="channel", round_to=1, iterative=False, repair="batch_norm"
    )
    (batch,) = batches(spread(context.data.train, 40), context.processor, 40)
    with torch.no_grad():
        expected = stem.convolution(batch["pixel_values"]).mean(dim=(0, 2, 3))
    found = result.model.resnet.embedder.embedder.normalization.running_mean
    assert len(found) < len(expected)
    assert all((expected - mean).abs().min() < 1e-4 for mean in found)


def test_a_pruned_model_can_learn_from_the_unpruned_one_without_labels(model, context):
    context.data.train.labels = [IGNORED_LABEL] * len(context.data.train)
    result = pruned(model, context, epochs=1, loss="mse", iterative=False)
    assert result.details["rounds"][0]["validation_accuracy"] >= 0


@pytest.mark.parametrize("granularity", ["channel", "weight", "n:m"])
def test_scores_are_computed_once_a_round_on_the_best_model_and_the_same_again(
    model, context, monkeypatch, granularity
):
    options = {"granularity": granularity, "importance": "taylor", "calibration": 20} | rounding(granularity)
    if granularity != "n:m":
        options |= {"target": {"sparsity": 0.3}, "max_drop": 1.0}
    scored = []
    monkeypatch.setattr(pruner, "score", lambda *arguments: scored.append(arguments) or score(*arguments))
    first = pruned(copy.deepcopy(model), context, **options)
    assert len(scored) == len(first.details["rounds"])
    assert all(len(arguments[-1].images) == 20 for arguments in scored)
    again = pruned(copy.deepcopy(model), replace(context, work_folder=context.work_folder / "again"), **options)
    weights, others = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.mark.parametrize(
    ("granularity", "repair"), [("channel", "batch_norm"), ("channel", "none"), ("weight", "batch_norm")]
)
def test_batch_norms_are_re_estimated_where_repair_says_so(model, context, granularity, repair):
    options = {"granularity": granularity, "repair": repair, "iterative": False} | rounding(granularity)
    mean = pruned(copy.deepcopy(model), context, **options).model.resnet.embedder.embedder.normalization.running_mean
    assert (mean == 0).all() == (repair == "none")


@pytest.mark.parametrize(("granularity", "scope"), [("channel", "layer"), ("channel", "cost"), ("weight", "layer")])
def test_rows_tell_what_the_repair_gave_back(model, context, granularity, scope):
    options = {"granularity": granularity, "scope": scope, "amount": 0.3, "calibration": 40} | rounding(granularity)
    options["repair"] = "least_squares"
    result = pruned(copy.deepcopy(model), context, **options, target={"sparsity": 0.6}, max_drop=1.0)
    rows = result.details["rounds"]
    assert len(rows) == 2
    assert all(0 <= row["output_error_after"] < row["output_error_before"] for row in rows)
    assert rows[-1]["sparsity"] == pytest.approx(0.6, abs=0.05)


def test_without_repair_rows_tell_no_errors(model, context):
    (row,) = pruned(model, context, iterative=False, repair="none").details["rounds"]
    assert not {"output_error_before", "output_error_after"} & set(row)


@pytest.mark.parametrize("options", [{"amount": 0.3}, {"granularity": "n:m", "pattern": "2:4", "exclude": [STEM]}])
def test_zeros_that_are_there_already_are_trained_with(model, context, options):
    first = pruned(model, context, iterative=False, **options)
    again = pruned(first.model, context, epochs=1, iterative=False, **options)
    (row,) = again.details["rounds"]
    assert row["kept"] and row["sparsity"] == pytest.approx(first.details["rounds"][0]["sparsity"])
    for name, weight in first.model.named_parameters():
        if name in again.sparse_parameters:
            now = again.model.get_parameter(name)
            assert torch.equal(now == 0, weight == 0) and not torch.equal(now, weight)


def test_what_is_less_than_a_weight_prunes_nothing_and_says_so(model, context):
    with pytest.raises(RunError, match="nothing was pruned: amount 1e-06 is less than one weight of a layer"):
        pruned(model, context, amount=1e-6, iterative=False)
