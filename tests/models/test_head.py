"""A checkpoint's classifier under other labels: its rows are moved where the names are the same, and new otherwise."""

import pytest
import torch
from families import FAMILIES, VIT, Family, timm
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from hf_compress import load, save
from hf_compress.ground.errors import RunError
from hf_compress.models.head import find_head, head_alone, permute_classes, take_classes
from hf_compress.models.students import build_registered
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner

DIGITS = [str(digit) for digit in range(10)]
ORDER = [*range(3, 10), 2, 0, 1]
SOME = [7, 3, 4]
WANTED = [
    "resnet", "mobilenet_v2", "vit", "beit", "swin", "swiftformer", "clip", "perceiver", "timm resnet18",
    "timm vit_tiny_patch16_224", "timm efficientformer_l1", "resnet56-cifar10 (custom code)",
]  # fmt: skip
LEVIT = {"hidden_sizes": [16, 32, 32], "num_attention_heads": [2, 4, 4], "depths": [1, 1, 1], "key_dim": [8, 8, 8]}
CASES = [
    *(family for family in FAMILIES if family.name in WANTED),
    Family("deit with two heads", "DeiTConfig", VIT, model="DeiTForImageClassificationWithTeacher"),
    Family(
        "levit with two heads",
        "LevitConfig",
        {**LEVIT, "image_size": 64},
        64,
        "LevitForImageClassificationWithTeacher",
    ),
    Family(
        "as wide as its classes", "ResNetConfig", {"embedding_size": 10, "hidden_sizes": [10, 10], "depths": [1, 1]}
    ),
    timm("deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=32, num_heads=4),
]


OFTEN = {"resnet", "vit", "deit with two heads", "as wide as its classes"}


@pytest.fixture(
    scope="module",
    params=[pytest.param(family, marks=() if family.name in OFTEN else pytest.mark.long) for family in CASES],
    ids=[family.name for family in CASES],
)
def checkpoint(request, tmp_path_factory):
    """A folder, the options to load it with, and pictures."""
    family = request.param
    if not family.available:
        pytest.skip("the shared models are not beside this checkout")
    folder = tmp_path_factory.mktemp("checkpoint")
    save(family.build(), folder, family.processor())
    images = torch.randn(3, 3, family.image_size, family.image_size, generator=torch.Generator().manual_seed(1))
    return str(folder), {"trust_remote_code": not family.config}, images


def logits(loaded, images):
    with torch.no_grad():
        return loaded.model(pixel_values=images).logits


def test_the_same_labels_in_another_order_move_the_rows(checkpoint, tmp_path):
    folder, options, images = checkpoint
    before = load(folder, **options)
    names = [before.label_names[index] for index in ORDER]
    after = load(folder, labels=[name.upper() for name in names], **options)
    assert after.label_names == [name.upper() for name in names] and not after.new_head
    wanted = logits(before, images)[:, ORDER]
    assert torch.allclose(logits(after, images), wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max())
    save(after.model, tmp_path, after.processor)
    again = load(str(tmp_path), **options)
    assert again.label_names == after.label_names
    assert torch.allclose(logits(again, images), logits(after, images))


def test_other_labels_of_the_same_number_make_a_new_head_and_leave_the_body(checkpoint):
    folder, options, images = checkpoint
    before, after = load(folder, **options), load(folder, labels=list("abcdefghij"), **options)
    assert after.new_head and after.label_names == list("abcdefghij")
    head = find_head(before.model, before.processor)
    old, new = before.model.state_dict(), after.model.state_dict()
    assert {name for name in old if not torch.equal(old[name], new[name])} == head.keys()
    for name in head:  # no row of an old class is left, and no class is favoured
        rows = new[name].flatten(1) if new[name].dim() > 1 else new[name]
        assert len(rows.unique(dim=0)) == (len(rows) if new[name].dim() > 1 else 1)
    assert logits(after, images).isfinite().all()


def test_some_of_the_labels_keep_their_rows(checkpoint, tmp_path):
    folder, options, images = checkpoint
    whole = load(folder, **options)
    names = [whole.label_names[index] for index in SOME]
    some = load(folder, labels=names, **options)
    assert (some.label_names, some.new_head, some.classes_before) == (names, False, 10)
    wanted = logits(whole, images)[:, SOME]
    assert torch.allclose(logits(some, images), wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max())
    save(some.model, tmp_path, some.processor)
    again = load(str(tmp_path), **options)
    assert again.label_names == names and again.classes_before is None
    assert torch.allclose(logits(again, images), logits(some, images))


@pytest.mark.parametrize(("names", "pretrained"), [(["7", "eleven"], True), (["7", "3"], False)])
def test_a_class_that_is_not_there_or_weights_that_are_not_wanted_make_a_new_head(names, pretrained, pruned):
    loaded = load(str(pruned[0]), labels=names, pretrained=pretrained)
    assert loaded.new_head and loaded.classes_before is None


def test_the_head_alone_learns_all_of_it_and_nothing_else_changes(checkpoint):
    folder, options, images = checkpoint
    loaded = load(folder, **options)
    model, head = loaded.model, find_head(loaded.model, loaded.processor)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with head_alone(model, loaded.processor):
        parameters = dict(model.named_parameters())
        assert {name for name, parameter in parameters.items() if parameter.requires_grad} == head.keys()
        assert head.keys() == find_head(model, loaded.processor).keys()
        optimizer = torch.optim.SGD([parameters[name] for name in head], lr=0.1)
        model.train()
        model(pixel_values=images).logits.square().sum().backward()
        optimizer.step()
        learning = [part for part in model.modules() if any(tensor.requires_grad for tensor in part.parameters())]
        assert all(part.training for part in learning)
        assert all(part.training for whole in learning for part in whole.children() if not part.state_dict())
    after = model.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == head.keys()
    assert all(parameter.requires_grad for parameter in model.parameters())
    model.train()
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("known", [[f"LABEL_{index}" for index in range(10)], DIGITS])
def test_mere_numbers_match_by_number(known, tmp_path):
    built = build_registered("resnet18", known, width=0.125, image_size=32)
    save(built.model, tmp_path, built.processor)
    loaded = load(str(tmp_path), labels=DIGITS)
    assert not loaded.new_head and loaded.label_names == DIGITS
    assert torch.equal(loaded.model.classifier[1].weight, built.model.classifier[1].weight)


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A checkpoint whose classifier lost inputs."""
    built = build_registered("mobilenet_v2", DIGITS, width=0.1, image_size=32)
    ChannelPruner(built.model, torch.randn(1, 3, 32, 32), PruneSection(round_to=4), set()).prune(built.model, 0.5)
    assert built.model.classifier.in_features < 1280
    folder = tmp_path_factory.mktemp("pruned")
    save(built.model, folder, built.processor)
    return folder, built.model.classifier.in_features


@pytest.mark.parametrize("labels", [list("abc"), list("abcdefghijklmnop"), list("abcdefghij"), DIGITS[::-1]])
def test_a_checkpoint_without_channels_takes_other_labels(labels, pruned, tmp_path):
    folder, width = pruned
    loaded = load(str(folder), labels=labels)
    assert loaded.model.classifier.weight.shape == (len(labels), width)
    save(loaded.model, tmp_path, loaded.processor)
    again = load(str(tmp_path))
    assert again.label_names == labels
    images = torch.randn(2, 3, 32, 32)
    assert torch.allclose(logits(again, images), logits(loaded, images), atol=1e-5)


class Odd(PreTrainedModel):
    """A classifier of three classes whose parts can be odd."""

    config_class = PretrainedConfig

    def __init__(self, config, kind):
        super().__init__(config)
        self.layer, self.kind = nn.Linear(3, config.num_labels), kind
        self.register_buffer("weights", torch.arange(1.0, config.num_labels + 1))

    def forward(self, pixel_values):
        if self.kind == "no gradients":
            with torch.no_grad():
                return ImageClassifierOutput(logits=self.layer(pixel_values.mean(dim=(2, 3))))
        logits = self.layer(pixel_values.mean(dim=(2, 3)))
        return ImageClassifierOutput(logits=logits.softmax(-1) if self.kind == "softmax" else logits * self.weights)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no gradients", "classifier of Odd was not found"),
        ("softmax", "classifier of Odd was not found"),
        ("class weights", "labels of Odd cannot be put into another order"),
    ],
)
def test_a_classifier_that_cannot_be_reordered_is_refused(kind, message):
    processor = build_registered("resnet18", DIGITS, width=0.125, image_size=8).processor
    with pytest.raises(RunError, match=message):
        permute_classes(Odd(PretrainedConfig(num_labels=3), kind).eval(), processor, [2, 0, 1])


def test_a_classifier_of_which_no_part_can_be_taken_is_refused():
    processor = build_registered("resnet18", DIGITS, width=0.125, image_size=8).processor
    whole, some = (Odd(PretrainedConfig(num_labels=count), "class weights").eval() for count in (3, 2))
    with pytest.raises(RunError, match="labels of Odd cannot be taken from more"):
        take_classes(some, whole, processor, [2, 0])


def test_where_no_part_can_be_taken_the_classifier_is_a_new_one(monkeypatch, tmp_path):
    def none(*arguments):
        raise RunError("it was not found")

    monkeypatch.setattr("hf_compress.models.load.take_classes", none)
    built = build_registered("resnet18", list("abcd"), width=0.125, image_size=32)
    save(built.model, tmp_path, built.processor)
    loaded = load(str(tmp_path), labels=["b", "a"])
    assert loaded.new_head and loaded.classes_before is None and loaded.label_names == ["b", "a"]
