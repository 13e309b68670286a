"""What pruning cannot reach is refused before it begins; what it did not reach is said."""

import re

import pytest
import torch
from transformers import ResNetConfig, ResNetForImageClassification, TrainerControl, TrainerState, ViTImageProcessor

from hf_compress import Recipe, compress
from hf_compress.data import load_data
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.load import LoadedModel
from hf_compress.report.card_facts import what_was_done
from hf_compress.report.limits import limits
from hf_compress.sections.base import validate
from hf_compress.sections.data import DataSection
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.gradual import GradualPruning
from hf_compress.steps.pruning.loop import foresee, prune_model
from hf_compress.steps.pruning.targets import shortfall
from hf_compress.training.context import Context
from tests.reports import report

PROCESSOR = ViTImageProcessor(size={"height": 32, "width": 32})
STEM = "resnet.embedder.embedder.convolution"


def classifier():
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic", num_labels=10)
    return LoadedModel(ResNetForImageClassification(config), PROCESSOR, "tiny")


@pytest.fixture
def context(tmp_path):
    splits = {"train": "train[:40]", "validation": "train[40:60]", "test": "train[60:80]"}
    data = load_data(DataSection(path="digits", splits=splits), 0)
    lines = []
    return Context(data, PROCESSOR, None, 0, tmp_path, log=lines.append), lines


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        ({"granularity": "weight", "target": {"sparsity": 0.95}}, "target.sparsity 0.95"),
        ({"target": {"sparsity": 0.95}}, "target.sparsity 0.95"),
        ({"granularity": "weight", "amount": 0.95, "iterative": False}, "amount 0.95"),
        ({"amount": 0.6, "iterative": False, "floor": 0.5}, "amount 0.6"),
        ({"granularity": "weight", "target": {"sparsity": 0.9}}, None),
        ({"granularity": "weight", "target": {"sparsity": 0.95}, "floor": 0.05}, None),
        ({"granularity": "weight", "amount": 0.95}, None),
        ({"target": {"macs": 0.95}}, None),
    ],
    ids=str,
)
def test_less_than_the_floor_is_refused_in_the_recipe(options, refused):
    if refused is None:
        validate(PruneSection, options)
        return
    with pytest.raises(UsageError, match=f"{refused} leaves less than the floor"):
        validate(PruneSection, options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"floor": 0.5},
        {"round_to": 8},
        {"round_to": "auto", "floor": 0.3},
        {"scope": "global", "floor": 0.5},
        {"exclude": [STEM]},
        {"layout": "config"},
    ],
    ids=str,
)
@pytest.mark.parametrize("metric", ["macs", "parameters"])
def test_the_most_that_can_go_is_named_and_can_be_reached(options, metric):
    options = {"round_to": 4} | options
    with pytest.raises(RunError, match=rf"'prune.target.{metric}' 0.999 cannot be reached: 0\.\d+ can go") as refused:
        foresee(classifier(), PruneSection(target={metric: 0.999}, **options))
    most = float(re.search(r"reached: (0\.\d+)", str(refused.value))[1])
    foresee(classifier(), PruneSection(target={metric: most}, **options))
    with pytest.raises(RunError):
        foresee(classifier(), PruneSection(target={metric: most + 0.01}, **options))


@pytest.mark.parametrize(("options", "reached"), [
    ({"max_drop": 1.0, "amount": 0.4}, True),
    ({"iterative": False}, True),
    ({"max_drop": 1.0, "amount": 0.4, "floor": 0.7}, False),
])  # fmt: skip
def test_the_step_refuses_before_its_first_round(options, reached, context):
    config = PruneSection(target={"macs": 0.6}, round_to=4, recovery={"epochs": 0}, **options)
    here, lines = context
    if reached:
        details = prune_model(classifier().model, here, config).details
        assert details["target_reached"]
        assert "missed" not in details
        return
    with pytest.raises(RunError, match=r"'prune\.target\.macs' 0\.6 cannot be reached"):
        prune_model(classifier().model, here, config)
    assert lines == []


def test_a_run_refuses_before_its_first_training(tmp_path):
    small = {"model": "resnet18", "width": 0.0625, "image_size": 16}
    steps = [{"distill": {"epochs": 1}}, {"prune": {"target": {"macs": 0.999}}}]
    recipe = Recipe.from_dict(
        {"teacher": small | {"finetune": {"epochs": 1}}, "student": small, "data": "digits", "steps": steps}
    )
    lines = []
    with pytest.raises(RunError, match="cannot be reached"):
        compress(recipe, tmp_path / "out", log=lines.append)
    assert not [line for line in lines if "epoch" in line]


def rounds(*kept):
    """Each round takes another 0.2 of everything."""
    rows = []
    for number, good in enumerate(kept, start=1):
        gone = dict.fromkeys(("sparsity", "macs", "parameters"), 0.2 * number)
        rows.append({**gone, "amount": 0.9, "kept": good, "validation_accuracy": 0.5})
    return rows


TARGET = {"target": {"macs": 0.5}}
SHOT = {"iterative": False, "amount": 0.4}


@pytest.mark.parametrize(
    ("options", "rows", "says"),
    [
        (TARGET, rounds(True, True, False), "50.0% of the MACs were to go, 40.0% went: more would cost over 0.01"),
        (TARGET, rounds(False, False), "50.0% of the MACs were to go, 0.0% went: more would cost"),
        (
            TARGET,
            rounds(True, True),
            "50.0% of the MACs were to go, 40.0% went: each layer keeps its floor of 0.1",
        ),
        (
            TARGET,
            [{**rounds(True)[0], "amount": 0.2}],
            "50.0% of the MACs were to go, 20.0% went: the model does not run when more is gone",
        ),
        (TARGET, [*rounds(True), {"diverged": "nan", "kept": False}], "20.0% went: the training diverged"),
        ({"target": {"parameters": 0.3}}, rounds(True, False), "30.0% of the parameters were to go, 20.0% went"),
        ({"target": {"sparsity": 0.3}}, rounds(True, False), "30.0% of the channels were to go"),
        (
            {"target": {"sparsity": 0.3}, "granularity": "weight"},
            rounds(True, False),
            "30.0% of the weights were to go",
        ),
        (
            SHOT,
            rounds(True),
            "40.0% of the channels were to go, 20.0% went: each layer keeps its floor of 0.1, and widths",
        ),
        (SHOT | {"amount": 0.1}, rounds(True), "10.0% of the channels were to go, 20.0% went"),
        (SHOT | {"granularity": "weight"}, rounds(True), "40.0% of the weights were to go"),
        (TARGET, rounds(True, True, True), None),
        ({"target": {"macs": 0.4005}}, rounds(True, True, False), None),
        ({"target": {"macs": 0.2}}, rounds(True, False), None),
        (SHOT | {"amount": 0.195}, rounds(True), None),
        (SHOT | {"amount": 0.1, "granularity": "weight"}, rounds(True), None),
        ({"amount": 0.4}, rounds(True, False), None),
    ],
    ids=str,
)
def test_what_was_not_reached_is_said_in_terminal_and_card(options, rows, says):
    lines = []
    details = shortfall(rows, PruneSection(**options), "accuracy", lines.append)
    made = report()
    made["rows"][-1]["details"] |= details
    if says is None:
        assert (details, lines) == ({}, [])
        assert limits(made) == limits(report())
        return
    (line,) = lines
    assert line.startswith("not as asked: ") and says in line
    missed = details["missed"]
    asked, went = re.search(r"([\d.]+)% of the .* ([\d.]+)% went", line).groups()
    assert (missed["asked"], missed["reached"]) == pytest.approx((float(asked) / 100, float(went) / 100))
    sentence = limits(made)[0]
    assert sentence.startswith("Step 1 prune was to remove ")
    assert f"{asked}%" in sentence and f"{went}%" in sentence and missed["reason"] in sentence
    assert what_was_done(made["rows"][-1]).endswith(", not as asked")


def test_rounding_that_takes_another_share_is_said(context):
    here, lines = context
    config = PruneSection(amount=0.3, iterative=False, round_to=16, recovery={"epochs": 0})
    details = prune_model(classifier().model, here, config).details
    assert details["missed"]["reached"] == details["rounds"][-1]["sparsity"] != pytest.approx(0.3, abs=0.01)
    assert lines[-1].startswith("not as asked: 30.0% of the channels were to go")
    assert lines[-1].endswith("widths are multiples of 16 ('round_to')")


def test_a_student_over_the_budget_that_it_was_selected_for_is_said_in_the_card():
    made = report()
    made["selection"] = {"budget": {"latency_ms": 1.5, "parameters": 2_000_000}}
    assert limits(made)[0] == "The student was selected for a budget of 1.5 latency_ms; the final model has 2."
    assert limits(made)[1:] == limits(report())


@pytest.mark.parametrize(("end", "steps", "told"), [(0.5, 8, False), (1.0, 8, True), (0.5, 2, True)])
def test_a_training_that_ends_before_the_last_round_is_told(end, steps, told, caplog):
    pruning = GradualPruning(
        PruneSection(granularity="weight", floor=0, amount=0.2, target={"sparsity": 0.6}), end=end
    )
    state, control = TrainerState(max_steps=8), TrainerControl()
    pruning.on_train_begin(None, state, control, model=classifier().model)
    for step in range(steps):
        state.global_step = step
        pruning.on_step_begin(None, state, control)
    pruning.on_train_end(None, state, control)
    assert ("before the last round of pruning: sparsity is" in caplog.text) == told
    assert (pruning.sparsity == pytest.approx(0.6, abs=0.01)) != told
