"""Copies of a teacher that are thinner or shallower: which weights they have, and what they know at once."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForImageClassification, ResNetConfig, ViTConfig

from hf_compress.checkpoint import save
from hf_compress.checkpoint.labels import label_options
from hf_compress.checkpoint.rewrites import Dropped
from hf_compress.data import load_data
from hf_compress.data.images import batches, class_indices
from hf_compress.ground.errors import RunError
from hf_compress.measure.cost import count_parameters
from hf_compress.models.load import LoadedModel
from hf_compress.models.students import build_registered, build_student
from hf_compress.sections.data import DataSection
from hf_compress.sections.models import StudentSection
from hf_compress.steps.pruning import thinning
from hf_compress.steps.pruning.thinning import thinned
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.training.context import Context

DIGITS = [str(digit) for digit in range(10)]
SPLITS = {"train": "train[:300]", "validation": "train[300:400]", "test": "train[400:700]"}


@pytest.fixture(scope="module")
def data():
    return load_data(DataSection(path="digits", splits=SPLITS), 0)


@pytest.fixture(scope="module")
def processor():
    return build_registered("resnet18", DIGITS, width=0.125, image_size=16).processor


@pytest.fixture(scope="module")
def pictures(data, processor):
    """Training and test images with their classes."""
    return [next(iter(batches(split, processor, 300, class_indices))) for split in (data.train, data.test)]


def resnet(width=32):
    torch.manual_seed(0)
    shape = {"embedding_size": width, "hidden_sizes": [width, width], "depths": [2, 2], "layer_type": "basic"}
    return AutoModelForImageClassification.from_config(ResNetConfig(**shape, **label_options(DIGITS)))


@pytest.fixture(scope="module")
def teacher(processor, pictures):
    """A small ResNet that knows digits."""
    model = resnet().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(45):
        part = slice(step % 3, None, 3)
        logits = model(pixel_values=pictures[0]["pixel_values"][part]).logits
        loss = F.cross_entropy(logits, pictures[0]["labels"][part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.optim.swa_utils.update_bn([pictures[0]["pixel_values"]], model)
    return LoadedModel(model.eval(), processor, "the teacher")


@pytest.fixture
def context(data, processor, tmp_path):
    return Context(data, processor, None, 0, tmp_path, log=lambda line: None)


def copy_of(teacher, context, **section):
    section = StudentSection(model="teacher", **section)
    student = build_student(section, DIGITS, teacher, CLASSIFICATION)
    return thinned(student, section, replace(context, processor=student.processor))


def accuracy(model, batch):
    with torch.no_grad():
        return (model(pixel_values=batch["pixel_values"]).logits.argmax(1) == batch["labels"]).float().mean().item()


def test_a_copy_keeps_the_channels_that_count_with_their_weights(teacher, context, monkeypatch):
    """Every second channel is dead: at width 0.5 the others stay, in the order in which they were."""
    whole = replace(teacher, model=copy.deepcopy(teacher.model))
    for module in whole.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data[1::2], module.bias.data[1::2] = 0, 0
    before = copy.deepcopy(whole.model.state_dict())
    monkeypatch.setattr(thinning, "repair", lambda *arguments: {"output_error_after": 0.25})
    thin, details = copy_of(whole, context, width=0.5)
    assert thin.config.hidden_sizes == [16, 16] and thin.config.embedding_size == 16
    stem = "resnet.embedder.embedder.convolution.weight"
    assert torch.equal(thin.get_parameter(stem), before[stem][::2])
    columns = (thin.classifier[1].weight[:, :, None] == before["classifier.1.weight"][:, None]).all(0)
    assert columns.sum(1).eq(1).all() and columns.int().argmax(1).diff().gt(0).all()
    assert torch.equal(thin.classifier[1].bias, before["classifier.1.bias"])
    assert details == {"width": 0.5, "depth": 1.0, "output_error": 0.25}
    assert all(torch.equal(tensor, before[name]) for name, tensor in whole.model.state_dict().items())


@pytest.mark.parametrize("section", [{"width": 0.5}, {"depth": 0.5}, {"width": 0.75, "depth": 0.75}], ids=str)
def test_a_copy_knows_digits_at_once_and_reloads(section, teacher, context, pictures, tmp_path):
    thin, details = copy_of(teacher, context, **section)
    scratch = resnet(16).eval()
    assert accuracy(teacher.model, pictures[1]) > 0.75
    assert accuracy(thin, pictures[1]) > 0.65 > 0.25 > accuracy(scratch, pictures[1])
    assert count_parameters(thin) < 0.8 * count_parameters(teacher.model)
    assert 0 < details["output_error"] < 1
    save(thin, tmp_path / "saved")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "saved")
    with torch.no_grad():
        ours, theirs = (each(pixel_values=pictures[1]["pixel_values"]).logits for each in (thin, again))
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_half_of_the_blocks_stay(teacher, context):
    thin, _ = copy_of(teacher, context, depth=0.5)
    dropped = [name for name, module in thin.named_modules() if isinstance(module, Dropped)]
    assert len(dropped) == 2 and all(name.startswith("resnet.encoder.stages") for name in dropped)
    assert thin.config.hidden_sizes == [32, 32]


def test_a_copy_may_see_images_of_another_size(teacher, context):
    section = StudentSection(model="teacher", width=0.5, image_size=32)
    student = build_student(section, DIGITS, teacher, CLASSIFICATION)
    assert dict(student.processor.size)["height"] == 32
    assert dict(teacher.processor.size)["height"] == 16
    assert thinned(student, section, replace(context, processor=student.processor))[0].config.hidden_sizes == [16, 16]


def test_what_the_config_cannot_express_goes_layer_by_layer():
    """The config of a ViT has the units of its MLPs, and neither heads nor embedding."""
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    config = ViTConfig(**shape, image_size=16, patch_size=8, **label_options(DIGITS))
    model = AutoModelForImageClassification.from_config(config).eval()
    processor = build_registered("resnet18", DIGITS, width=0.125, image_size=16).processor
    thin, _ = thinned(LoadedModel(model, processor, "a vit"), StudentSection(model="teacher", width=0.5))
    assert thin.config.hidden_size == 32
    assert thin.vit.layers[0].attention.q_proj.weight.shape == (16, 16)
    assert thin.classifier.in_features == 16


@pytest.mark.parametrize(
    ("name", "section", "says"),
    [
        ("mobilenet_v1", {"depth": 0.5}, "'student.depth' 0.5 cannot be had of mobilenet_v1: nothing can be pruned"),
        ("resnet18", {"depth": 0.95}, "'student.depth' 0.95 takes nothing of resnet18: lower it"),
        ("resnet18", {"width": 0.99}, "'student.width' 0.99 takes nothing of resnet18: lower it"),
    ],
)
def test_what_cannot_be_is_one_sentence(name, section, says):
    whole = build_registered(name, DIGITS, width=0.25, image_size=32)
    with pytest.raises(RunError, match=says):
        thinned(whole, StudentSection(model="teacher", **section))
