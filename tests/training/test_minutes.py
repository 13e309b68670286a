"""Trainings that have minutes: what fits is measured once, and then trained as if it had been written."""

import json
from dataclasses import replace
from types import SimpleNamespace

import datasets
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_compress.data import load_data
from hf_compress.data.mixing import Mixing
from hf_compress.data.sources import load_raw
from hf_compress.data.streaming import ImageStream
from hf_compress.ground.errors import UsageError
from hf_compress.models.load import LoadedModel
from hf_compress.sections.base import TrainingConfig, validate
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import DistillSection
from hf_compress.sections.models import TeacherFinetune
from hf_compress.steps.distillation import register_loss
from hf_compress.steps.feature_distillation import DistillFeatures
from hf_compress.steps.feature_distillation.training import distil_features
from hf_compress.steps.finetuning import Finetune
from hf_compress.steps.pruning.config import PruneSection, RecoveryConfig
from hf_compress.steps.pruning.loop import prune_model
from hf_compress.tasks.features import FEATURES
from hf_compress.training import budget, fitting, teacher_outputs
from hf_compress.training.budget import TimeTrial
from hf_compress.training.context import Context
from hf_compress.training.fitting import train

SPLITS = {"train": "train[:64]", "validation": "train[300:330]", "test": "train[400:430]"}
PROCESSOR = ViTImageProcessor(size={"height": 16, "width": 16})
STEP, EVALUATION, ASKING = 10.0, 20.0, 30.0  # seconds of the clock below
MINUTES = 10.8
"""Of 615.6 s without the reserve, the trial takes 4 steps (till 5 % are over), a first one, and an evaluation. There
is room left for an evaluation before the first step, 8 epochs of 4 steps with theirs, and half a one."""
FITTING = {"minutes": MINUTES, "steps": 34, "epochs": 8.5}


class Clock:
    """Goes on only when a model is asked."""

    def __init__(self):
        self.time, self.speed, self.running = 0.0, 1.0, True

    def __call__(self):
        return self.time

    def watch(self, model):
        def go_on(module, *_):
            self.time += self.speed * (STEP if module.training else EVALUATION)

        model.register_forward_hook(go_on)
        return model


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(budget, "now", clock)
    return clock


@pytest.fixture(scope="module")
def data():
    return load_data(DataSection(path="digits", splits=SPLITS), 0)


@pytest.fixture
def context(data, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_COMPRESS_CACHE", str(tmp_path / "shared"))
    return Context(data, PROCESSOR, None, 0, tmp_path / "work", log=lambda line: None, resumable=True)


def vit(seed=0, dropout=0.0):
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=10, hidden_dropout_prob=dropout)
    return ViTForImageClassification(config)


def same(first, second):
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def views(context, count):
    section = DataSection(path="digits", splits=SPLITS, augmentation="light", views=count)
    return replace(context, data=load_data(section, 0).augmented("light", PROCESSOR))


def trial(firsts, others, after, epoch_steps):
    made = TimeTrial(0.0, None)
    made.firsts, made.others, made.after, made.epoch_steps = firsts, others, after, epoch_steps
    return made


@pytest.mark.parametrize(
    ("seconds", "options", "steps"),
    [
        (1000, {"epochs": 3}, 30),
        (3 * 25 - 1, {"epochs": 9}, 29),
        (2 * 25, {"epochs": 9}, 20),
        (2 * 25 + 15, {"epochs": 9}, 20),
        (2 * 25 + 16, {"epochs": 9}, 21),
        (17, {"epochs": 9}, 2),
        (0, {"epochs": 9}, 1),
        (-5, {"epochs": 9}, 1),
        (3 * 25 + 2 * 8, {"epochs": 9, "views": 3, "asking": 8}, 30),
        (3 * 25 + 2 * 8 - 1, {"epochs": 9, "views": 3, "asking": 8}, 29),
        (4 * 25 + 2 * 8, {"epochs": 9, "views": 3, "asking": 8}, 40),
    ],
)
def test_steps_that_fit(seconds, options, steps):
    """An epoch takes 4 + 9 * 1 + 12 seconds, but for a partial one, and the first step of all 6 more."""
    measured = trial([10.0, 4.0], [5.0, 2.0, 2.0, *[1.0] * 7], after=12.0, epoch_steps=10)
    assert measured.steps_within(seconds + 6, **options) == steps


def test_the_schedule_is_that_of_the_steps_that_fit(context, clock):
    model, lines = clock.watch(vit()), []
    config = TrainingConfig(epochs=1000, minutes=MINUTES, batch_size=16, learning_rate=0.01, warmup=0.5)
    details = train(model, replace(context, log=lines.append), config)
    assert details["time_budget"] == FITTING
    assert 60 * MINUTES * 0.9 < clock() < 60 * MINUTES
    assert len(details["epochs"]) == 9
    assert lines[0] == "  10.8 minutes: 34 steps, 8.5 epochs"
    assert lines[-1].startswith("  epoch 9 of 9: loss")
    state = json.loads(next(context.work_folder.rglob("checkpoint-34/trainer_state.json")).read_text())
    rates = [entry["learning_rate"] for entry in state["log_history"] if "learning_rate" in entry]
    expected = [min(step - 1, 34 - (step - 1)) / 17 for step in (*range(4, 33, 4), 34)]
    assert rates == pytest.approx([0.01 * share for share in expected])
    assert not list(context.work_folder.rglob("trial"))


@pytest.mark.long
def test_an_epoch_that_takes_longer_than_the_minutes_is_made_in_part(context, clock):
    config = TrainingConfig(minutes=2.5, batch_size=4, learning_rate=0.01)
    details = train(clock.watch(vit()), context, config)
    assert details["time_budget"] == {"minutes": 2.5, "steps": 4, "epochs": 0.25}
    assert [row["epoch"] for row in details["epochs"]] == [1]
    assert clock() < 150
    assert train(clock.watch(vit()), context, TrainingConfig(minutes=0.01))["time_budget"]["steps"] == 1


def test_a_trial_waits_for_steps_that_are_no_first_of_an_epoch(clock):
    """The first one takes longer than a trial may, the others a second."""
    measured = TimeTrial(100, None)
    measured.scale = 1
    args, state = SimpleNamespace(num_train_epochs=9), SimpleNamespace(max_steps=36, global_step=0)
    control = SimpleNamespace(should_epoch_stop=False, should_training_stop=False)
    measured.on_train_begin(args, state, control)
    for durations in ([40, 1, 1], [40]):
        measured.on_epoch_begin(args, state, control)
        control.should_epoch_stop = False
        for seconds in durations:
            assert not control.should_epoch_stop
            clock.time += seconds
            state.global_step += 1
            measured.on_step_end(args, state, control)
        assert control.should_epoch_stop
        measured.on_epoch_end(args, state, control)
    assert control.should_training_stop and control.should_evaluate
    clock.time += 7
    measured.on_evaluate(args, state, control)
    measured.on_save(args, state, control)
    assert measured.steps_within(3 * (40 + 3 + 7), epochs=9) == 12


@pytest.mark.parametrize(
    "teacher", [pytest.param(None, marks=pytest.mark.long), pytest.param("live", marks=pytest.mark.long), "asked"]
)
def test_minutes_for_all_epochs_change_nothing(context, clock, teacher):
    """The trial leaves no trace, with dropout, augmentation, mixes, a moving average and weights that are held."""
    if teacher == "asked":
        context = views(context, 2)
    else:
        mixed = replace(context.data, mixing=Mixing(mixup=0.5, cutmix=1.0))
        context = replace(context, data=mixed.augmented("light", PROCESSOR))
    context = replace(context, sparse_parameters=frozenset({"classifier.weight"}))

    def trained(folder, **options):
        model = vit(dropout=0.2)
        model.classifier.weight.data[:, ::2] = 0
        options = {"epochs": 3, "batch_size": 24, "learning_rate": 0.01, "average": 0.9, "warmup": 0.1, **options}
        config = TrainingConfig(**options) if teacher is None else DistillSection(loss="kl", **options)
        taught = None if teacher is None else LoadedModel(vit(1).eval(), PROCESSOR, "teacher")
        work = replace(context, work_folder=context.work_folder / folder)
        return model, train(model, work, config, taught)

    plain, expected = trained("plain")
    budgeted, details = trained("minutes", minutes=10)
    assert details.pop("time_budget") == {"minutes": 10, "steps": 9, "epochs": 3.0}
    assert details == expected
    assert same(plain, budgeted)


@pytest.mark.parametrize(
    "when",
    [
        "epoch 1 of 9",
        *(pytest.param(at, marks=pytest.mark.long) for at in ("trial", "epoch 9 of 9", "all is trained")),
    ],
)
def test_an_interrupted_training_makes_the_steps_that_were_decided(context, clock, monkeypatch, when):
    config = TrainingConfig(epochs=1000, minutes=MINUTES, batch_size=16, learning_rate=0.01)

    def trained(folder, log=lambda line: None):
        model = clock.watch(vit(dropout=0.2))
        work = replace(context, work_folder=context.work_folder / folder, log=log)
        return model, train(model, work, config)

    def interrupt(line=""):
        if when in line or when in ("trial", "all is trained"):
            raise KeyboardInterrupt

    whole, expected = trained("whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if when == "trial":
            patch.setattr(TimeTrial, "on_save", lambda *args, **kwargs: interrupt())
        if when == "all is trained":
            patch.setattr(fitting.StudentTrainer, "load_best", lambda trainer: interrupt())
        trained("interrupted", interrupt if when.startswith("epoch") else lambda line: None)
    lines = []
    clock.speed = 1.0 if when == "trial" else 2.0
    resumed, details = trained("interrupted", lines.append)
    assert any("minutes" in line for line in lines) == (when == "trial")
    assert details == expected
    assert details["time_budget"] == FITTING
    assert same(whole, resumed)


def test_only_views_that_are_shown_are_asked_for_and_asking_takes_time(context, clock, monkeypatch):
    asked, ask = [], teacher_outputs._ask_all

    def slowly(images, *args):
        asked.append(images.epoch)
        clock.time += ASKING
        return ask(images, *args)

    monkeypatch.setattr(teacher_outputs, "_ask_all", slowly)
    config = DistillSection(loss="kl", epochs=1000, minutes=MINUTES, batch_size=16, learning_rate=0.01)
    teacher = LoadedModel(vit(1).eval(), PROCESSOR, "teacher")
    details = train(clock.watch(vit()), views(context, 7), config, teacher)
    assert asked == [0, 1, 2, 3, 4, 5]
    assert details["time_budget"]["epochs"] == 5.5
    assert clock() < 60 * MINUTES
    begun = clock()
    again = replace(context, work_folder=context.work_folder / "again")
    details = train(clock.watch(vit()), views(again, 4), config, teacher)
    assert len(asked) == 6
    assert details["time_budget"]["epochs"] == 8.5
    assert clock() - begun < 60 * MINUTES


@pytest.mark.long
def test_memory_that_runs_out_in_the_trial_leaves_the_steps(context, clock):
    model = clock.watch(vit())

    def allocate(module, arguments, options):
        if module.training and len(options["pixel_values"]) > 8:
            torch.empty(10**15)

    model.register_forward_pre_hook(allocate, with_kwargs=True)
    config = TrainingConfig(epochs=1000, minutes=MINUTES, batch_size=16, learning_rate=0.01)
    details = train(model, context, config)
    assert details["batch_size_in_memory"] == 8
    assert details["time_budget"]["epochs"] == details["time_budget"]["steps"] / 4
    assert 60 * MINUTES * 0.8 < clock() < 60 * MINUTES


@register_loss("test_budget_explode")
def explode(student_logits, teacher_logits, labels, config):
    """Overflows as soon as a logit is 4.4 away from 1."""
    return (20 * (student_logits - 1).abs()).exp().mean()


@pytest.mark.long
def test_a_lower_learning_rate_leaves_the_steps(context, clock):
    """The loss is not finite any more in the trial, and again later."""
    options = {"loss": "test_budget_explode", "optimizer": "sgd", "scheduler": "constant", "on_nan": "retry"}
    config = DistillSection(epochs=1000, minutes=MINUTES, batch_size=16, learning_rate=3.2, **options)
    details = train(clock.watch(vit()), context, config, LoadedModel(vit(1).eval(), PROCESSOR, "teacher"))
    assert details["retries"]
    assert len(details["epochs"]) == -(-details["time_budget"]["steps"] // 4)


@pytest.mark.long
def test_a_stream_has_minutes(context, clock):
    digits = load_raw(DataSection(path="digits"), "data").rows["train"].select(range(64))
    rows = digits.to_iterable_dataset(num_shards=2).cast_column("image", datasets.Image(decode=False))
    context = replace(context, data=replace(context.data, stream=ImageStream(rows, "image", "label", 64)))
    config = TrainingConfig(epochs=1000, minutes=MINUTES, batch_size=16, learning_rate=0.01)
    details = train(clock.watch(vit()), context, config)
    assert details["time_budget"] == FITTING
    assert len(details["epochs"]) == 9


@pytest.mark.long
def test_features_have_minutes(context, clock):
    teacher = LoadedModel(vit(1).vit.eval(), PROCESSOR, "teacher")
    context = replace(context, task=FEATURES, teacher=teacher)
    config = TrainingConfig(epochs=1000, minutes=MINUTES, batch_size=16, learning_rate=0.01)
    result = distil_features(clock.watch(vit().vit), context, config)
    assert result.details["time_budget"] == FITTING | {"steps": 32, "epochs": 8.0}  # its width is looked at first


@pytest.mark.long
def test_each_round_of_pruning_has_minutes(context):
    recovery = {"epochs": 2, "minutes": 10, "learning_rate": 1e-3}
    options = {"granularity": "weight", "amount": 0.2, "target": {"sparsity": 0.4}, "max_drop": 1.0}
    result = prune_model(vit(), context, PruneSection(**options, recovery=recovery))
    rows = [row["time_budget"] for row in result.details["rounds"]]
    assert rows == [{"minutes": 10, "steps": 4, "epochs": 2.0}] * 2


@pytest.mark.parametrize(
    "section", [TeacherFinetune, DistillSection, RecoveryConfig, Finetune.Config, DistillFeatures.Config]
)
def test_every_section_that_trains_may_have_minutes(section):
    assert validate(section, {}).minutes is None
    assert validate(section, {"minutes": 0.5}).minutes == 0.5
    for wrong in (0, -1, True, "long", float("inf")):
        with pytest.raises(UsageError, match="'minutes' cannot be"):
            validate(section, {"minutes": wrong})
