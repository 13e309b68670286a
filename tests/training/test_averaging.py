"""The moving average of the weights."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_compress.data import load_data
from hf_compress.sections.base import TrainingConfig
from hf_compress.sections.data import DataSection
from hf_compress.steps.pruning.config import RecoveryConfig
from hf_compress.training.averaging import AverageWeights
from hf_compress.training.context import Context
from hf_compress.training.fitting import train
from hf_compress.training.predicting import evaluate
from hf_compress.training.trainer import StudentTrainer


def step(average, number):
    average.on_step_end(None, SimpleNamespace(global_step=number), None)


def test_the_average_is_as_by_hand():
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(8.0)
    average = AverageWeights(0.25)
    average.on_train_begin(None, None, None, model=model)
    model.weight.data.fill_(0.0)
    step(average, 1)  # (1 + 1) / (10 + 1) of it stays
    assert average.values["weight"].item() == pytest.approx(8 * 2 / 11)
    step(average, 2)  # 3 / 12, which is the share
    assert average.values["weight"].item() == pytest.approx(8 * 2 / 11 / 4)
    model.weight.data.fill_(4.0)
    step(average, 100)
    assert average.values["weight"].item() == pytest.approx(8 * 2 / 11 / 16 + 3)
    with average.shown():
        assert model.weight.item() == average.values["weight"].item()
    assert model.weight.item() == 4.0


def test_statistics_are_averaged_and_whole_numbers_are_not():
    model = nn.BatchNorm2d(2)
    average = AverageWeights(0.9)
    average.on_train_begin(None, None, None, model=model)
    assert set(average.values) == {"weight", "bias", "running_mean", "running_var"}


def test_what_is_evaluated_and_kept_is_the_average(tmp_path, monkeypatch):
    data = load_data(
        DataSection(
            path="digits", splits={"train": "train[:64]", "validation": "train[300:330]", "test": "train[400:430]"}
        ),
        0,
    )
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=10))
    processor = ViTImageProcessor(size={"height": 16, "width": 16})
    context = Context(data, processor, None, 0, tmp_path, log=lambda line: None)
    first = model.classifier.weight.detach().clone()
    expected = first.clone()
    usual = AverageWeights.on_step_end

    def watched(self, args, state, control, **kwargs):
        usual(self, args, state, control, **kwargs)
        share = min(0.8, (1 + state.global_step) / (10 + state.global_step))
        expected.mul_(share).add_((1 - share) * model.classifier.weight.detach())

    evaluated = []

    def looked_at(module, *_):
        if not module.training:
            evaluated.append(model.classifier.weight.detach().clone())

    monkeypatch.setattr(AverageWeights, "on_step_end", watched)
    model.register_forward_hook(looked_at)
    found = train(model, context, TrainingConfig(epochs=1, learning_rate=1e-2, average=0.8))
    assert torch.allclose(model.classifier.weight, expected, atol=1e-6)
    assert torch.equal(evaluated[0], first), "before the training"
    assert evaluated[1:] and all(torch.allclose(weight, expected, atol=1e-6) for weight in evaluated[1:])
    judged = evaluate(model, processor, data, "validation", context.task)["accuracy"]
    assert found["epochs"][0]["validation_accuracy"] == pytest.approx(judged)


def test_recovery_averages_by_default_and_other_trainings_do_not():
    assert RecoveryConfig().average == 0.999
    assert TrainingConfig().average == 0
    assert StudentTrainer.average is None
