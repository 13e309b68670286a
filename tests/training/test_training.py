"""Training keeps the best epoch, whole."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import TrainingArguments, ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_compress.data import load_data
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.tensors import use_channels_last
from hf_compress.models.load import LoadedModel
from hf_compress.models.students import build_registered
from hf_compress.report.card_facts import what_was_done
from hf_compress.report.schema_rows import Details
from hf_compress.run.recipe import Recipe
from hf_compress.sections.base import TrainingConfig, validate
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import DistillSection, LossConfig
from hf_compress.sections.models import TeacherFinetune
from hf_compress.steps.feature_distillation import DistillFeatures
from hf_compress.steps.feature_distillation.training import distil_features
from hf_compress.steps.finetuning import Finetune
from hf_compress.steps.pruning.config import RecoveryConfig
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.tasks.features import FEATURES
from hf_compress.training import fitting
from hf_compress.training.arguments import optimizer, training_arguments
from hf_compress.training.context import Context
from hf_compress.training.fitting import best_epoch, quality_kept, train
from hf_compress.training.predicting import evaluate, predict
from hf_compress.training.trainer import DistillationTrainer

SPLITS = {"train": "train[:100]", "validation": "train[300:400]", "test": "train[400:500]"}


def test_all_weights_are_those_of_the_best_epoch_also_where_they_are_saved_under_other_names(tmp_path, monkeypatch):
    """A ViT's parameters have other names on the Hub than in memory."""
    values = lambda epochs: [epoch["validation_accuracy"] for epoch in epochs]  # noqa: E731
    monkeypatch.setattr(fitting, "best_epoch", lambda began, epochs, metric: metric.best(values(epochs)) + 1)
    torch.manual_seed(0)
    options = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = ViTForImageClassification(ViTConfig(**options, image_size=32, patch_size=8, num_labels=10))
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    data = load_data(DataSection(path="digits", splits=SPLITS), 0)
    context = Context(data, processor, None, 0, tmp_path, log=lambda line: None)
    states = []
    model.register_forward_hook(
        lambda module, inputs, output: None if module.training else states.append(snapshot(module))
    )
    details = train(model, context, TrainingConfig(epochs=4, learning_rate=0.03, scheduler="constant"))
    assert details["best_epoch"] < 4
    best = quality_kept(details, CLASSIFICATION.deciding)
    kept = snapshot(model)
    assert all(torch.equal(kept[name], states[details["best_epoch"]][name]) for name in kept)
    assert evaluate(model, processor, data, "validation")["accuracy"] == pytest.approx(best)


@pytest.mark.parametrize("average", [0, 0.9])
def test_a_training_that_makes_a_model_worse_leaves_it_as_it_was(tmp_path, average):
    torch.manual_seed(0)
    built = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.125, image_size=16)
    model, data, lines = built.model, load_data(DataSection(path="digits", splits=SPLITS), 0), []
    context = Context(data, built.processor, None, 0, tmp_path, log=lines.append)
    train(model, context, TrainingConfig(epochs=6, batch_size=16, learning_rate=3e-3))
    before, accuracy = snapshot(model), evaluate(model, built.processor, data, "validation")["accuracy"]
    details = train(model, context, TrainingConfig(epochs=2, learning_rate=3.0, average=average))
    assert details["began"] == {"validation_accuracy": pytest.approx(accuracy)} and accuracy > 0.3
    assert details["best_epoch"] == 0 and len(details["epochs"]) == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in snapshot(model).items())
    assert quality_kept(details, CLASSIFICATION.deciding) == pytest.approx(accuracy)
    assert lines[-1] == "  every epoch is worse than before the training: the model stays as it was"
    Details.model_validate(details)
    assert what_was_done({"stage": "1 finetune", "details": details}).startswith("2 epochs, all worse than before")


@pytest.mark.parametrize(
    ("began", "epochs", "best"), [(0.5, (0.4, 0.6, 0.6), 2), (0.6, (0.4, 0.6), 2), (0.7, (0.4,), 0)]
)
def test_the_first_of_the_best_epochs_is_kept_and_what_was_before_only_where_it_is_better(began, epochs, best):
    rows = [{"validation_accuracy": value} for value in (began, *epochs)]
    assert best_epoch(rows[0], rows[1:], CLASSIFICATION.deciding) == best


def test_after_training_in_bf16_the_model_answers_in_float32(tmp_path):
    built = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.125, image_size=32)
    data = load_data(DataSection(path="digits", splits=SPLITS), 0)
    context = Context(data, built.processor, None, 0, tmp_path, log=lambda line: None)
    train(built.model, context, TrainingConfig(epochs=1, precision="bf16"))
    untouched = copy.deepcopy(built.model)
    assert "forward" not in vars(built.model)
    fresh = type(built.model)(built.model.config).eval()
    fresh.load_state_dict(built.model.state_dict())
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        use_channels_last(fresh)
        expected = fresh(image).logits
        assert torch.equal(built.model(image).logits, expected)
        assert torch.equal(untouched(image).logits, expected)


def test_the_trainer_gets_what_the_recipe_says(tmp_path):
    data = load_data(DataSection(path="digits", splits=SPLITS), 0)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    context = Context(data, processor, None, 7, tmp_path, log=lambda line: None)
    config = TrainingConfig(
        epochs=3, batch_size=5, learning_rate=0.2, weight_decay=0.3, warmup=0.4, scheduler="cosine", optimizer="sgd"
    )
    arguments = training_arguments(config, context, tmp_path, accumulation=2)
    assert (arguments.num_train_epochs, arguments.per_device_train_batch_size) == (3, 5)
    assert (arguments.learning_rate, arguments.weight_decay, arguments.warmup_steps) == (0.2, 0.3, 0.4)
    assert (arguments.lr_scheduler_type, arguments.seed, arguments.gradient_accumulation_steps) == ("cosine", 7, 2)
    assert arguments.report_to == []  # nothing is tracked that the recipe does not name
    assert optimizer(config) == (torch.optim.SGD, {"lr": 0.2, "momentum": 0.9, "nesterov": True})


def test_a_teacher_answers_without_dropout(tmp_path):
    def vit(dropout):
        options = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
        config = ViTConfig(**options, image_size=8, patch_size=4, num_labels=3, hidden_dropout_prob=dropout)
        return ViTForImageClassification(config).train()

    student, inputs = vit(0.0), {"pixel_values": torch.randn(4, 3, 8, 8)}
    arguments = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    trainer = DistillationTrainer(student, arguments, teacher=vit(0.5), loss_config=DistillSection(loss="mse"))
    first, second = (trainer.compute_loss(student, inputs).item() for _ in range(2))
    assert first == second


def test_what_is_measured_is_not_augmented():
    built = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.125, image_size=32)
    data = load_data(DataSection(path="digits", splits=SPLITS), 0)
    expected = predict(built.model, built.processor, data.train).outputs["logits"]
    train = data.augmented("standard", built.processor).train
    assert torch.equal(predict(built.model, built.processor, train).outputs["logits"], expected)


@pytest.mark.long
def test_compiled_models_learn_the_same(tmp_path, monkeypatch):
    """The backend of these graphs makes no machine code, which would take half a minute."""
    monkeypatch.setattr(
        "hf_compress.training.trainer.compiled", partial(torch.compile, backend="aot_eager", dynamic=False)
    )
    torch.manual_seed(0)
    options = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    untrained = ViTForImageClassification(ViTConfig(**options, image_size=8, patch_size=4, num_labels=10))
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    teacher = LoadedModel(copy.deepcopy(untrained), processor, "a teacher")
    data = load_data(DataSection(path="digits", splits=SPLITS), 0)
    data.train.augment, data.train.views = torch.nn.Identity(), None  # so that the teacher is asked at each step
    learnt = []
    torch._dynamo.reset()
    counters.clear()
    for compile in (False, True):
        model = copy.deepcopy(untrained)
        context = Context(data, processor, None, 0, tmp_path / str(compile), log=lambda line: None)
        config = DistillSection(loss="mse_ce", epochs=1, batch_size=25, precision="bf16", compile=compile)
        learnt.append(train(model, context, config, teacher)["epochs"][0]["training_loss"])
        assert counters["stats"]["unique_graphs"] >= (2 if compile else 0)
        assert isinstance(model, ViTForImageClassification)
        assert "forward" not in vars(model)
    assert learnt[1] == pytest.approx(learnt[0], rel=1e-2)


def test_losses_that_compare_layers_are_not_compiled():
    with pytest.raises(UsageError, match="leave out compile"):
        validate(DistillSection, {"loss": "hints", "layers": {"a": "b"}, "compile": True})


def update(model, context, config, teacher=None):
    """Return how far one step of gradient descent, with Nesterov momentum 0.9, moves the weights."""
    before = snapshot(model)
    train(model, context, config, teacher) if context.teacher is None else distil_features(model, context, config)
    moved = [(tensor - before[name]).double().norm() for name, tensor in model.named_parameters()]
    return torch.stack(moved).norm().item()


@pytest.mark.parametrize("work", ["labels", "teacher", "features"])
def test_gradients_are_clipped_where_the_recipe_says(work, tmp_path):
    torch.manual_seed(0)
    options = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    untrained = ViTForImageClassification(ViTConfig(**options, image_size=8, patch_size=4, num_labels=10))
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    data = load_data(DataSection(path="digits", splits=SPLITS), 0)
    teacher = LoadedModel(copy.deepcopy(untrained), processor, "a teacher")
    with torch.no_grad():
        teacher.model.classifier.weight.mul_(200)
    moved = {}
    for clip in (0, 0.01, "default"):
        given = {"epochs": 1, "batch_size": 100, "optimizer": "sgd", "scheduler": "constant", "learning_rate": 1e-3}
        given |= {} if clip == "default" else {"max_grad_norm": clip}
        context = Context(data, processor, None, 0, tmp_path / str(clip), log=lambda line: None)
        model = copy.deepcopy(untrained)
        if work == "features":
            teacher = LoadedModel(copy.deepcopy(untrained.vit), processor, "a teacher")
            context = replace(context, task=FEATURES, teacher=teacher)
            with torch.no_grad():
                context.teacher.model.embeddings.position_embeddings.mul_(50)
            moved[clip] = update(model.vit, context, validate(TrainingConfig, given))
        elif work == "teacher":
            moved[clip] = update(model, context, validate(LossConfig, given | {"loss": "kl"}), teacher)
        else:
            moved[clip] = update(model, context, validate(TrainingConfig, given))
    assert moved[0] > 1.9e-3 * 0.02
    assert moved[0.01] == pytest.approx(1.9e-3 * 0.01, rel=1e-2)
    assert moved["default"] == pytest.approx(min(moved[0], 1.9e-3), rel=1e-3)


@pytest.mark.parametrize(
    "section", [TeacherFinetune, DistillSection, RecoveryConfig, Finetune.Config, DistillFeatures.Config]
)
def test_clipping_has_the_default_of_transformers_in_every_section_that_trains(section):
    assert validate(section, {}).max_grad_norm == TrainingArguments().max_grad_norm == 1.0
    assert validate(section, {"max_grad_norm": None}).max_grad_norm == 0.0
    for wrong in (-1, True, "much", float("inf")):
        with pytest.raises(UsageError, match="'max_grad_norm' cannot be"):
            validate(section, {"max_grad_norm": wrong})


def test_frozen_batch_norms_learn_scales_and_keep_their_statistics(tmp_path):
    """One image a batch will do, as nothing is learnt of it alone; afterwards they learn as before."""
    data = load_data(DataSection(path="digits", splits=SPLITS | {"train": "train[:24]"}), 0)
    loaded = build_registered("resnet18", data.label_names, width=0.125, image_size=32)
    context = Context(data, loaded.processor, None, 0, tmp_path, log=lambda line: None)
    before = snapshot(loaded.model)
    given = {"epochs": 1, "batch_size": 1, "learning_rate": 1e-2}
    with pytest.raises(RunError, match="cannot learn from a single image"):
        train(loaded.model, context, validate(TrainingConfig, given))
    train(loaded.model.train(), context, validate(TrainingConfig, given | {"freeze_batch_norms": True}))
    changed = {name for name, tensor in snapshot(loaded.model).items() if not torch.equal(tensor, before[name])}
    norms = {name.rpartition(".")[0] for name in before if name.endswith("running_mean")}
    assert norms and not {f"{norm}.running_{kind}" for norm in norms for kind in ("mean", "var")} & changed
    assert {f"{norm}.weight" for norm in norms} <= changed
    assert all(loaded.model.train().get_submodule(norm).training for norm in norms)


def test_no_clipping_is_kept_by_a_recipe_that_is_written(tmp_path):
    values = {"student": "resnet18", "data": "digits", "steps": [{"finetune": {"max_grad_norm": None}}]}
    (tmp_path / "recipe.yaml").write_text(Recipe.from_dict(values).to_yaml())
    assert Recipe.load(tmp_path / "recipe.yaml").steps[0]["finetune"].max_grad_norm == 0.0


def snapshot(model):
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
