"""Registered architectures: the same networks as torchvision's and timm's, trainable, and reloadable by anyone."""

import json

import pytest
import timm
import torch
import torchvision
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageClassification, ViTConfig

from hf_compress import save
from hf_compress.data import load_data
from hf_compress.data.images import batches, class_indices, input_size
from hf_compress.ground.errors import UsageError
from hf_compress.measure.cost import bytes_on_disk, count_macs, count_parameters
from hf_compress.models.students import build_model, build_registered, build_student, students_for
from hf_compress.run.selection.candidates import Blueprint, Candidate
from hf_compress.sections.data import DataSection
from hf_compress.sections.models import StudentSection, TeacherSection
from hf_compress.tasks.classification import CLASSIFICATION

DIGITS = [str(digit) for digit in range(10)]
IN_TIMM = {"mobilenet_v1": "mobilenetv1_100", "convnext_atto": "convnext_atto"}


@pytest.mark.parametrize("name", students_for())
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


@pytest.mark.parametrize("name", students_for())
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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mobilenet_v1", marks=pytest.mark.long),
        pytest.param("efficientnet_b0", marks=pytest.mark.long),
        "regnet_y_400mf",
        "convnext_atto",
    ],
)
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


VIT = ViTConfig(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=64, patch_size=8
)


@pytest.mark.parametrize("section", [StudentSection, TeacherSection])
@pytest.mark.parametrize(("size", "refused"), [(48, False), (32, True)])
def test_a_checkpoint_sees_images_of_another_size_where_it_takes_them(section, size, refused, tmp_path):
    """A convolutional network takes any size; a transformer with an embedding for each place does not."""
    built = build_registered("resnet18", DIGITS, width=0.125, image_size=64)
    save(AutoModelForImageClassification.from_config(VIT) if refused else built.model, tmp_path, built.processor)
    given = section(model=str(tmp_path), image_size=size)
    if refused:
        with pytest.raises(UsageError, match=r"'image_size' 32: .* does not take images of that size: "):
            build_model(given, None, CLASSIFICATION)
        return
    assert input_size(build_model(given, None, CLASSIFICATION).processor) == (size, size)
    assert input_size(build_model(section(model=str(tmp_path)), None, CLASSIFICATION).processor) == (64, 64)


def test_a_copy_of_the_teacher_sees_images_of_another_size_where_it_takes_them():
    teacher = build_registered("resnet18", DIGITS, width=0.125, image_size=64)
    student = build_student(StudentSection(model="teacher", image_size=32), DIGITS, teacher, CLASSIFICATION)
    assert (input_size(student.processor), input_size(teacher.processor)) == ((32, 32), (64, 64))
    teacher.model = AutoModelForImageClassification.from_config(VIT)
    with pytest.raises(UsageError, match="'image_size' 32: resnet18 does not take images of that size"):
        build_student(StudentSection(model="teacher", width=0.5, image_size=32), DIGITS, teacher, CLASSIFICATION)
