"""Distillation through Neural Compressor: how the loss reaches a training loop, and pruning in the same one."""

import copy
from functools import partial

import pytest
import torch
from neural_compressor.torch import quantization
from shapes import tiny_segmenter
from torch import nn
from torch.nn import functional as F

import hf_compress
from hf_compress.adapters.neural_compressor import (
    DistillConfig,
    PruneConfig,
    convert,
    distillation_loss,
    prepare,
    quantize,
)
from hf_compress.adapters.neural_compressor.distillation import distillation_of
from hf_compress.ground.errors import UsageError
from hf_compress.ground.looking import twin
from hf_compress.losses.criterion import DistillationCriterion
from hf_compress.losses.layer_maps import answer
from hf_compress.models.students import build_registered
from hf_compress.sections.distillation import LOSSES, LossConfig
from hf_compress.tasks.classification import CLASSIFICATION


def classifier(seed=0):
    torch.manual_seed(seed)
    return build_registered("mobilenet_v2", list("abcd"), width=0.1, image_size=32).model


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


IMAGES, LABELS = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 3, 0, 1])


@pytest.mark.parametrize("loss", ["mse", "mse_ce", "kl", "dkd", "dist"])
def test_the_loss_of_a_training_output_is_the_steps_loss_against_the_teacher(loss):
    teacher = classifier(1).eval()
    model = prepare(classifier(), DistillConfig(teacher_model=teacher, loss=loss)).train()
    outputs = model(pixel_values=IMAGES, labels=LABELS)
    with torch.no_grad():
        teacher_logits = teacher(IMAGES).logits
    expected = LOSSES.get(loss).function(outputs.logits, teacher_logits, LABELS, LossConfig(loss=loss))
    assert torch.equal(outputs.loss, expected)
    assert torch.equal(distillation_loss(model, outputs, LABELS), expected)
    outputs.loss.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_evaluation_and_state_dict_know_nothing_of_the_teacher():
    model = prepare(classifier(), DistillConfig(teacher_model=classifier(1), loss="kl")).eval()
    outputs = model(pixel_values=IMAGES, labels=LABELS)
    assert torch.equal(outputs.loss, F.cross_entropy(outputs.logits, LABELS))
    assert model.state_dict().keys() == classifier().state_dict().keys()
    assert len(list(model.parameters())) == len(list(classifier().parameters()))


def test_losses_without_labels_come_by_themselves_and_others_ask_for_them():
    model = prepare(classifier(), DistillConfig(teacher_model=classifier(1), loss="kl")).train()
    assert model(IMAGES).loss > 0
    model = prepare(classifier(), DistillConfig(teacher_model=classifier(1), loss="mse_ce"))
    with pytest.raises(UsageError, match="seen no batch"):
        distillation_loss(model, None, LABELS)
    outputs = model.train()(IMAGES)
    assert outputs.loss is None
    with pytest.raises(UsageError, match="'mse_ce' needs labels"):
        distillation_loss(model, outputs)
    assert distillation_loss(model, outputs, LABELS) > 0


def test_a_model_that_returns_logits_distils_with_distillation_loss():
    teacher, images = network(1), torch.randn(6, 12)
    model = prepare(network(), DistillConfig(teacher_model=teacher, loss="mse"))
    outputs = model(images)
    expected = F.mse_loss(outputs.softmax(dim=1), teacher(images).softmax(dim=1))
    assert torch.allclose(distillation_loss(model, outputs), expected)
    converted = convert(model)
    assert vars(converted).keys() == vars(network()).keys()
    assert not converted._forward_hooks
    with pytest.raises(UsageError, match="not prepared for distillation"):
        distillation_loss(converted, outputs)


def test_a_teacher_can_be_a_folder(tmp_path):
    teacher = classifier(1).eval()
    processor = build_registered("mobilenet_v2", list("abcd"), width=0.1, image_size=32).processor
    hf_compress.save(teacher, tmp_path, processor)
    model = prepare(classifier(), DistillConfig(teacher_model=str(tmp_path))).train()
    outputs = model(IMAGES)
    assert torch.allclose(
        outputs.loss, F.mse_loss(outputs.logits.softmax(dim=1), teacher(IMAGES).logits.softmax(dim=1)), atol=1e-7
    )


def test_copies_share_the_teacher_and_each_copy_is_converted_alone():
    teacher = network(1)
    config = DistillConfig(teacher_model=teacher, loss="hints", layers={"1": "3"})
    model = prepare(network(), config, example_inputs=torch.randn(1, 12))
    copied = copy.deepcopy(model)
    distillation_loss(copied, copied(torch.randn(6, 12))).backward()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.grad is not None for name, parameter in copied.named_parameters() if "projector" in name)
    assert copied.hf_compress_distillation.teacher is model.hf_compress_distillation.teacher
    assert copied.quant_config.teacher_model is teacher
    convert(copied)
    assert not copied._forward_hooks and len(model._forward_hooks) == 1


def test_distillation_without_training_and_preparing_twice_are_errors():
    config = DistillConfig(teacher_model=network(1))
    with pytest.raises(UsageError, match="pass run_fn"):
        quantize(network(), config)
    with pytest.raises(UsageError, match="prepared for distillation already"):
        prepare(prepare(network(), config), config)


LAYERS = {"1": "3"}  # 16 units learn from 4


def test_layers_are_compared_through_projectors_that_train_with_the_model_and_leave_it():
    teacher, images = network(1).eval(), torch.randn(6, 12)
    config = DistillConfig(teacher_model=teacher, losses=[{"loss": "hints", "layers": LAYERS, "weight": 2.0}])
    model = prepare(network(), config, example_inputs=images)
    weight, bias = (parameter for name, parameter in model.named_parameters() if "projector" in name)
    before = weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = distillation_loss(model, model(images))
    hidden = model[1](model[0](images))
    projected = F.linear(hidden, weight[:, :, 0, 0], bias)
    assert loss.item() == pytest.approx(2 * F.mse_loss(projected, teacher(images)).item(), rel=1e-5)
    loss.backward()
    optimizer.step()
    assert not torch.equal(weight, before)
    model = convert(model)
    assert model.state_dict().keys() == network().state_dict().keys()
    assert vars(model).keys() == vars(network()).keys()


def test_several_losses_of_layers_and_outputs_add_up():
    teacher = classifier(1).eval()
    name = "mobilenet_v2.layer.3"
    losses = [{"loss": "kl"}, {"loss": "attention", "layers": {name: name}}, {"loss": "ce", "weight": 0.5}]
    config = DistillConfig(teacher_model=teacher, losses=losses)
    model = prepare(classifier(), config, example_inputs={"pixel_values": IMAGES[:1]}).train()
    torch.manual_seed(0)
    outputs = model(pixel_values=IMAGES, labels=LABELS)
    torch.manual_seed(0)
    student, wanted = (
        answer(partial(CLASSIFICATION.answer, each), IMAGES, [name], each) for each in (twin(model).train(), teacher)
    )
    expected = DistillationCriterion(config.section(), CLASSIFICATION.compare)(student, wanted, {"labels": LABELS})
    assert torch.allclose(outputs.loss, expected)
    outputs.loss.backward()
    with pytest.raises(UsageError, match="'ce' needs labels"):
        distillation_loss(model, outputs)


def test_a_forward_pass_that_fails_and_evaluation_leave_no_recording_behind():
    config = DistillConfig(teacher_model=network(1), loss="hints", layers=LAYERS)
    model, images = prepare(network(), config, example_inputs=torch.randn(1, 12)), torch.randn(6, 12)
    with pytest.raises(RuntimeError):
        model(torch.randn(6, 11))
    model.eval()(images)
    assert not model[1]._forward_hooks
    outputs = model.train()(images)
    loss = distillation_loss(model, outputs)
    model.eval()(images[:2])
    assert torch.equal(distillation_loss(model, outputs), loss)
    with pytest.raises(RuntimeError):
        model.train()(torch.randn(6, 11))
    state = distillation_of(model)
    assert state.recording and not convert(model)[1]._forward_hooks


def test_layers_need_an_input_and_names_that_there_are():
    def prepared(config, model=None, **options):
        return prepare(model or network(), config, **options)

    config = DistillConfig(teacher_model=network(1), loss="hints", layers=LAYERS)
    with pytest.raises(UsageError, match="pass example_inputs"):
        prepared(config)
    config = DistillConfig(teacher_model=network(1), loss="attention", layers={"1": "31"})
    with pytest.raises(UsageError, match=r"'31', which the teacher .* did you mean '3'"):
        prepared(config, example_inputs=torch.randn(1, 12))
    layers = {"mobilenet_v2.layer.3": "mobilenet_v2.layer.3"}
    config = DistillConfig(teacher_model=classifier(1), loss="hints", layers=layers)
    with pytest.raises(UsageError, match="no projector fits: convert the pruned model first"):
        prepared(config + PruneConfig(granularity="channel"), classifier(), example_inputs=IMAGES[:1])


def agreement(model, teacher, images):
    with torch.no_grad():
        return (model(images).argmax(dim=1) == teacher(images).argmax(dim=1)).float().mean().item()


def test_pruning_and_distillation_share_one_training_and_quantisation_follows():
    teacher, images = network(1), torch.randn(256, 12)
    trainings = []

    def train(model):
        trainings.append(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            loss = distillation_loss(model, model(images))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

    config = PruneConfig(amount=0.5) + DistillConfig(teacher_model=teacher, loss="kl", temperature=1.0)
    before = agreement(network(), teacher, images)
    model = quantize(network(), config, run_fn=train)
    assert len(trainings) == 1
    assert agreement(model, teacher, images) > before + 0.2
    assert [(model[layer].weight == 0).float().mean().item() for layer in (1, 3)] == [0.5, 0.5]
    assert vars(model).keys() == vars(network()).keys()
    quantized = quantization.quantize(model, quantization.RTNConfig(bits=8, group_size=-1))
    assert agreement(quantized, teacher, images) > before + 0.2


def test_prepare_and_convert_take_a_composition_too():
    model = prepare(network(), DistillConfig(teacher_model=network(1)) + PruneConfig(amount=0.5, rounds=1))
    distillation_loss(model, model(torch.randn(6, 12))).backward()
    model = convert(model)
    assert (model[1].weight == 0).float().mean().item() == 0.5
    assert vars(model).keys() == vars(network()).keys()


def test_a_teacher_in_half_precision_is_asked_in_float32():
    teacher = classifier(1).half()
    model = prepare(classifier(), DistillConfig(teacher_model=teacher, loss="kl")).train()
    assert model(pixel_values=IMAGES, labels=LABELS).loss.isfinite()
    assert {weight.dtype for weight in teacher.parameters()} == {torch.float16}


def test_a_segmenter_is_not_distilled_by_the_classes_of_pictures():
    with pytest.raises(UsageError, match="SegformerForSemanticSegmentation is for segmentation: distil it by a"):
        prepare(tiny_segmenter(), DistillConfig(teacher_model=tiny_segmenter(), loss="kl"))
