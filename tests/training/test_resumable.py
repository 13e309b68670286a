"""Trainings that are interrupted, that run out of memory, and whose numbers go wrong."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_compress.data import load_data
from hf_compress.data.mixing import Mixing
from hf_compress.ground.errors import Diverged, RunError
from hf_compress.ground.sealed import read_sealed
from hf_compress.models.embeddings import embed
from hf_compress.models.load import LoadedModel
from hf_compress.models.students import build_registered
from hf_compress.run.recipe import DataSection
from hf_compress.sections.base import TrainingConfig
from hf_compress.steps.distillation import LossConfig, register_loss
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.loop import prune_model
from hf_compress.training.batch_norms import reestimate_batch_norm
from hf_compress.training.context import Context
from hf_compress.training.fitting import train
from hf_compress.training.predicting import predict
from hf_compress.training.resumable import AVERAGE, Attempts

SPLITS = {"train": "train[:64]", "validation": "train[300:330]", "test": "train[400:430]"}
PROCESSOR = ViTImageProcessor(size={"height": 16, "width": 16})


@pytest.fixture(scope="module")
def data():
    return load_data(DataSection(path="digits", splits=SPLITS), 0)


@pytest.fixture
def context(data, tmp_path):
    return Context(data, PROCESSOR, None, 0, tmp_path, log=lambda line: None, resumable=True)


def vit(dropout=0.0):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=10, hidden_dropout_prob=dropout)
    return ViTForImageClassification(config)


def differing(first, second):
    states = first.state_dict(), second.state_dict()
    return [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]


def interrupt_at(text):
    def log(line):
        if text in line:
            raise KeyboardInterrupt

    return log


@pytest.mark.parametrize(
    "options",
    [
        {"optimizer": "adam", "scheduler": "linear", "warmup": 0.3},
        pytest.param(
            {"optimizer": "sgd", "scheduler": "cosine", "precision": "bf16", "average": 0.9}, marks=pytest.mark.long
        ),
        pytest.param({"optimizer": "adamw", "weight_decay": 0.1, "scheduler": "constant"}, marks=pytest.mark.long),
    ],
    ids=lambda options: options["optimizer"],
)
def test_an_interrupted_training_gives_the_same_weights_and_the_same_report(data, tmp_path, options):
    """With augmentation, mixes and dropout, which draw random numbers, and with weights that stay zero."""
    data = replace(data, mixing=Mixing(mixup=0.5, cutmix=1.0)).augmented("light", PROCESSOR)
    config = TrainingConfig(epochs=3, learning_rate=0.01, batch_size=16, **options)

    def trained(folder, log=lambda line: None):
        model = vit(dropout=0.2)
        weight = model.classifier.weight
        with torch.no_grad():
            weight[:, ::2] = 0
        held = frozenset({"classifier.weight"})
        context = Context(data, PROCESSOR, None, 0, tmp_path / folder, held, log=log, resumable=True)
        details = train(model, context, config)
        assert not weight[:, ::2].any()
        return model, details

    whole, expected = trained("whole")
    for epoch in ("epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"):
        with pytest.raises(KeyboardInterrupt):
            trained("interrupted", interrupt_at(epoch))
    lines = []
    resumed, details = trained("interrupted", lines.append)
    assert [line.partition(":")[0] for line in lines if " of 3" in line] == ["  epoch 3 of 3"]
    assert details == expected
    assert differing(whole, resumed) == []
    averages = [
        [load_file(file) for file in sorted((tmp_path / folder).rglob(AVERAGE))] for folder in ("whole", "interrupted")
    ]
    assert len(averages[0]) == len(averages[1]) >= ("average" in options)
    for one, other in zip(*averages, strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.long
def test_checkpoints_of_other_work_are_not_taken(data, tmp_path):
    low, high = (TrainingConfig(epochs=1, batch_size=32, learning_rate=rate) for rate in (1e-3, 1e-2))

    def trained(context, config):
        model = vit()
        train(model, context, config)
        return model

    def context(folder, **options):
        return Context(data, PROCESSOR, None, 0, tmp_path / folder, log=lambda line: None, **options)

    expected = trained(context("reference"), high)
    trained(context("used"), low)
    assert differing(expected, trained(context("used"), high)) == []
    one_step = context("two trainings", resumable=True)
    trained(one_step, low)
    assert differing(expected, trained(one_step, high)) == []


def explode(student_logits, teacher_logits, labels, config):
    """Overflows as soon as a logit is 4.4 away from 1."""
    return (20 * (student_logits - 1).abs()).exp().mean()


def poison(student_logits, teacher_logits, labels, config):
    """A finite loss whose gradient is not a number."""
    return (student_logits - student_logits.detach()).abs().sqrt().sum()


EXPLODING_RATE = 3.2
register_loss("test_explode")(explode)
register_loss("test_poison")(poison)


def distil(context, loss, **options):
    model = vit()
    config = LossConfig(loss=loss, optimizer="sgd", scheduler="constant", **options)
    return model, train(model, context, config, teacher=LoadedModel(vit(), PROCESSOR, "teacher"))


def test_a_loss_that_is_not_finite_stops_with_step_and_batch(context):
    with pytest.raises(Diverged, match=r"became (nan|inf) \(step 2, epoch 1, batch 2\): lower 'learning_rate'"):
        distil(context, "test_explode", epochs=1, batch_size=16, learning_rate=1e30)


def test_weights_that_are_not_finite_are_never_kept(context):
    with pytest.raises(Diverged, match=r"weights '.*' are not finite \(step 1, epoch 1\)"):
        distil(context, "test_poison", epochs=2, batch_size=64, learning_rate=0.1)
    assert not list(context.work_folder.rglob("checkpoint-*"))


def test_the_learning_rate_is_halved_until_the_loss_stays_finite(context):
    options = {"epochs": 2, "batch_size": 16, "on_nan": "retry"}
    model, details = distil(context, "test_explode", learning_rate=EXPLODING_RATE, **options)
    retries = details["retries"]
    assert [row["learning_rate"] for row in retries] == [EXPLODING_RATE / 2 ** (n + 1) for n in range(len(retries))]
    assert 1 <= len(retries) <= 3
    assert retries[0]["reason"].startswith("the training loss became inf")
    assert all(weight.isfinite().all() for weight in model.parameters())
    context = Context(context.data, PROCESSOR, None, 0, context.work_folder / "lower", log=lambda line: None)
    lower, expected = distil(context, "test_explode", learning_rate=retries[-1]["learning_rate"], **options)
    assert details == expected | {"retries": retries}
    assert differing(model, lower) == []


@pytest.mark.long
def test_after_three_retries_the_training_stops(context):
    with pytest.raises(Diverged):
        distil(context, "test_explode", epochs=1, batch_size=16, learning_rate=1e30, on_nan="retry")
    written = read_sealed(context.work_folder / "part-1" / "attempts.json")
    assert [row["learning_rate"] for row in written["retries"]] == [5e29, 2.5e29, 1.25e29]


def test_a_lower_learning_rate_holds_for_what_follows_a_checkpoint(context):
    """The first epoch was trained at another rate, which the optimizer's checkpoint holds."""
    config = TrainingConfig(epochs=3, batch_size=64, learning_rate=0.08, optimizer="sgd", scheduler="linear")
    with pytest.raises(KeyboardInterrupt):
        train(vit(), replace(context, log=interrupt_at("epoch 2 of 3")), config)
    attempts = Attempts(context.work_folder / "part-1", config.model_copy(update={"on_nan": "retry"}))
    attempts.lower_rate(Diverged("x", {"step": 2}))
    again = Context(context.data, PROCESSOR, None, 0, context.work_folder, log=lambda line: None, resumable=True)
    train(vit(), again, config)
    state = json.loads(next(context.work_folder.rglob("checkpoint-3/trainer_state.json")).read_text())
    rates = [entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry]
    assert rates == pytest.approx([0.08 * 3 / 3, 0.04 * 2 / 3, 0.04 * 1 / 3])


def short_of_memory(model, most):
    """Let torch's own allocator fail when more than `most` images come at once."""

    def allocate(module, arguments, options):
        images = options["pixel_values"] if "pixel_values" in options else arguments[0]
        if len(images) > most:
            torch.empty(10**15)

    model.register_forward_pre_hook(allocate, with_kwargs=True)
    return model


@pytest.mark.long
def test_a_training_that_runs_out_of_memory_goes_on_with_the_same_steps(context):
    config = TrainingConfig(epochs=2, batch_size=32, learning_rate=0.05, optimizer="sgd")
    whole, small = vit(), short_of_memory(vit(), 8)
    expected = train(whole, context, config)
    details = train(small, context, config)
    assert details["batch_size_in_memory"] == 8
    assert "batch_size_in_memory" not in expected
    losses = [[epoch["training_loss"] for epoch in found["epochs"]] for found in (expected, details)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], weight, rtol=1e-3, atol=1e-5)


def test_batches_that_add_up_to_the_recipes(tmp_path):
    sizes = []
    attempts = Attempts(tmp_path, TrainingConfig(batch_size=30))
    while attempts.batch_size > 1:
        sizes.append(attempts.shrink(attempts.batch_size))
        assert attempts.batch_size * attempts.accumulation == 30
    assert sizes == [15, 6, 3, 1]
    again = Attempts(tmp_path, TrainingConfig(batch_size=30))
    assert (again.batch_size, again.retries) == (1, [])


@pytest.mark.long
def test_a_single_image_that_does_not_fit_is_said(context):
    with pytest.raises(RunError, match="memory runs out with a single image"):
        train(short_of_memory(vit(), 0), context, TrainingConfig(epochs=1, batch_size=4))


TOLERANCE = {"rtol": 1e-5, "atol": 1e-2 if torch.cuda.is_available() else 1e-5}  # GPUs convolve in TF32


@pytest.mark.long
def test_predictions_embeddings_and_batch_norms_come_in_smaller_batches(context, data, caplog):
    whole = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.125, image_size=16)
    small = copy.deepcopy(whole)
    short_of_memory(small.model, 10)
    context = replace(context, processor=whole.processor)
    predictions = [predict(loaded.model, loaded.processor, data.test).outputs["logits"] for loaded in (whole, small)]
    torch.testing.assert_close(*predictions, **TOLERANCE)
    assert "memory ran out with batches of 128 images: going on with 64" in caplog.text
    for loaded in (whole, small):
        reestimate_batch_norm(loaded.model, context, images=16)
    assert not torch.equal(predict(whole.model, whole.processor, data.test).outputs["logits"], predictions[0])
    norms = [loaded.model.resnet.embedder.embedder.normalization.running_mean for loaded in (whole, small)]
    torch.testing.assert_close(*norms, rtol=1e-3, atol=max(1e-4, TOLERANCE["atol"]))
    whole.model, small.model = whole.model.resnet, short_of_memory(copy.deepcopy(whole.model.resnet), 10)
    torch.testing.assert_close(embed(whole, data.test), embed(small, data.test), **TOLERANCE)


DIVERGING = {"epochs": 1, "learning_rate": 1e30, "optimizer": "sgd"}


@pytest.mark.long
def test_a_round_that_diverges_is_rolled_back(context):
    built = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.125, image_size=16)
    context = replace(context, processor=built.processor)
    before = copy.deepcopy(built.model)
    config = PruneSection(amount=0.4, max_drop=1.0, round_to=1, recovery=DIVERGING)
    result = prune_model(built.model, context, config)
    rounds = result.details["rounds"]
    assert [row["amount"] for row in rounds] == [0.4, 0.2]
    assert not any(row["kept"] for row in rounds)
    assert all(row["diverged"].startswith("the training loss became") for row in rounds)
    assert differing(before, result.model) == []
    with pytest.raises(Diverged):
        prune_model(built.model, context, config.model_copy(update={"iterative": False}))
