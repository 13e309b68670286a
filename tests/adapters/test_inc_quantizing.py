"""Training for int8 through Neural Compressor's prepare, convert and quantize: it is the simulation of the step."""

import copy

import pytest
import torch
from nets import LAYERS, Net, photos
from neural_compressor.torch import quantization
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForImageClassification

import hf_compress
from hf_compress.adapters.neural_compressor import (
    DistillConfig,
    PruneConfig,
    QuantizeConfig,
    convert,
    distillation_loss,
    prepare,
    quantize,
)
from hf_compress.ground.errors import UsageError
from hf_compress.models.students import build_registered
from hf_compress.steps.quantization.simulation import int8_simulated

IMAGES = torch.cat(photos())


class Logits(Net):
    """Returns logits, as modules do that are not of transformers."""

    def forward(self, images):
        return super().forward(images)["logits"]


def classifier(seed=0):
    torch.manual_seed(seed)
    return build_registered("resnet18", list("abcd"), width=0.125, image_size=32).model


def assert_ordinary(model, like):
    assert vars(model).keys() == vars(like).keys()
    assert model.state_dict().keys() == like.state_dict().keys()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_prepared_model_says_what_the_simulation_of_the_step_says_and_keeps_its_modes():
    with int8_simulated(expected := Net(), [IMAGES]) as simulation:
        assert simulation.layers == LAYERS
        wanted = expected(IMAGES)["logits"]
    model = Logits().train()
    model.wide_norm.eval()
    before = copy.deepcopy(model.state_dict())
    model = prepare(model, QuantizeConfig(), example_inputs=IMAGES)
    assert model.training and not model.wide_norm.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(model.eval()(IMAGES), wanted)
    assert not torch.equal(wanted, Logits()(IMAGES))
    assert torch.equal(convert(model)(IMAGES), Logits()(IMAGES))
    assert_ordinary(model, Logits())


def test_an_own_loop_trains_what_int8_will_say():
    """One channel of `wide` has weights so large that its range swallows all others of what it gives."""
    model, images = Logits(norm=False), IMAGES
    with torch.no_grad():
        model.wide_norm.weight[0] *= 3000
        model.narrow.weight[:, 0] /= 3000
        wanted = model(images)
    model = prepare(model, QuantizeConfig(), example_inputs=images)
    with torch.no_grad():
        before = F.mse_loss(model(images), wanted).item()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(30):
        F.mse_loss(model.train()(images), wanted).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        after = F.mse_loss(model.eval()(images), wanted).item()
    assert after < 0.5 * before


def test_not_in_place_a_copy_is_finished_and_the_prepared_model_simulates_on():
    model = prepare(Logits(), QuantizeConfig(), example_inputs=IMAGES)
    simulated = model(IMAGES)
    converted = convert(model, inplace=False)
    assert_ordinary(converted, Logits())
    assert torch.equal(converted(IMAGES), Logits()(IMAGES))
    assert torch.equal(model(IMAGES), simulated)
    convert(model)
    assert_ordinary(model, Logits())


def test_pruned_distilled_and_trained_for_int8_at_once():
    teacher, trainings = Logits(seed=3), []

    def train(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(3):
            distillation_loss(model, model.train()(IMAGES)).backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            model.eval()(IMAGES)
        trainings.append(((model.wide.weight == 0).float().mean().item(), len(model.wide._forward_pre_hooks)))

    config = PruneConfig(amount=0.5, rounds=2) + DistillConfig(teacher_model=teacher, loss="kl") + QuantizeConfig()
    assert type(config).from_dict(config.to_dict()).to_dict() == config.to_dict()
    model = quantize(Logits(), config, run_fn=train, example_inputs=IMAGES)
    zeros, hooks = zip(*trainings, strict=True)
    assert zeros == pytest.approx([0.25, 0.5], abs=0.01)
    assert min(hooks) >= 1, "weights were rounded in both trainings"
    assert (model.wide.weight == 0).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert_ordinary(model, Logits())


def test_with_a_teacher_a_classifier_is_trained_saved_reloaded_and_quantized_by_neural_compressor(tmp_path):
    images, seen = torch.randn(8, 3, 32, 32), []

    def train(model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in range(2):
            loss = model.train()(pixel_values=images).loss
            seen.append(loss.item())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    config = QuantizeConfig() + DistillConfig(teacher_model=classifier(1), loss="kl")
    model = quantize(classifier(), config, run_fn=train, example_inputs={"pixel_values": images}).eval()
    assert len(seen) == 2 and min(seen) > 0
    hf_compress.save(model, tmp_path)
    reloaded = AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    assert all(torch.equal(reloaded.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert not torch.equal(model.classifier[1].weight, classifier().classifier[1].weight)
    assert quantization.quantize(reloaded, quantization.RTNConfig(bits=8, group_size=-1)).is_quantized


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: prepare(Logits(), QuantizeConfig()), r"pass example_inputs of shape \(batch, 3, height, width\)"),
        (lambda: prepare(nn.Sequential(nn.ReLU()), QuantizeConfig(), example_inputs=IMAGES), "Sequential has no conv"),
        (lambda: quantize(Logits(), QuantizeConfig(), example_inputs=IMAGES), "int8 needs training: pass run_fn"),
        (lambda: convert(Logits(), QuantizeConfig()), r"not prepared for int8: prepare\(model, QuantizeConfig\(\)"),
        (
            lambda: prepare(prepare(Logits(), QuantizeConfig(), example_inputs=IMAGES), QuantizeConfig()),
            "prepared for int8 already",
        ),
        (
            lambda: prepare(Logits(), PruneConfig(granularity="channel") + QuantizeConfig(), example_inputs=IMAGES),
            "convert the pruned model first, then train it for int8",
        ),
        (lambda: QuantizeConfig(white_list=["0"]), "int8 is simulated in every layer: leave out"),
    ],
)
def test_what_cannot_be_is_one_sentence(wrong, message):
    with pytest.raises(UsageError, match=message):
        wrong()
