"""Registered architectures: the same networks as torchvision's and timm's, trainable, and reloadable by anyone."""

import json

import pytest
import timm
import torch
import torchvision
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageClassification

from hf_compress import save
from hf_compress.data import load_data
from hf_compress.data.images import batches, class_indices
from hf_compress.measure.cost import bytes_on_disk, count_macs, count_parameters
from hf_compress.models.students import STUDENTS, build_registered
from hf_compress.run.selection.candidates import Blueprint, Candidate
from hf_compress.sections.data import DataSection

DIGITS = [str(digit) for digit in range(10)]
IN_TIMM = {"mobilenet_v1": "mobilenetv1_100", "convnext_atto": "convnext_atto"}


@pytest.mark.parametrize("name", list(STUDENTS))
def test_at_width_1_an_architecture_is_the_published_one(name):
    if name in IN_TIMM:
        reference = timm.create_model(IN_TIMM[name], num_classes=10)
    else:
        reference = torchvision.models.get_model(name, num_classes=10)
    image = torch.zeros(1, 3, 64, 64)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        reference.eval()(image)
    with torch.device("meta"):
        student = build_registered(name, DIGITS).model
    assert count_parameters(student) == count_parameters(reference)
    assert count_macs(student, image.to("meta")) == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", list(STUDENTS))
def test_costs_on_the_meta_device_are_those_of_the_built_model(name):
    blueprint = Blueprint(DIGITS, 32)
    model = blueprint.build(Candidate(name, 0.35, {})).model
    assert blueprint.static_costs(name, 0.35) == {
        "parameters": count_parameters(model),
        "macs": count_macs(model, blueprint.image),
        "bytes": pytest.approx(bytes_on_disk(model), rel=2e-3),
    }


@pytest.fixture(scope="module")
def digits():
    data = load_data(DataSection(path="digits"), seed=0)
    processor = build_registered("resnet18", DIGITS, width=0.125, image_size=32).processor
    return next(iter(batches(data.train, processor, 32, class_indices)))


@pytest.mark.parametrize("name", ["mobilenet_v1", "efficientnet_b0", "regnet_y_400mf", "convnext_atto"])
def test_a_narrow_student_learns_digits_and_reloads_with_plain_from_pretrained(name, digits, tmp_path):
    torch.manual_seed(0)
    student = build_registered(name, DIGITS, width=0.25, image_size=32)
    model = student.model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(model(pixel_values=digits["pixel_values"]).logits, digits["labels"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    save(model.eval(), tmp_path, student.processor)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    again = AutoModelForImageClassification.from_pretrained(tmp_path)
    with torch.no_grad():
        logits = [each(pixel_values=digits["pixel_values"]).logits for each in (model, again)]
    assert torch.equal(*logits)
