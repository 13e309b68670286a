"""Folded batch norms get real statistics, and the model says what it said."""

import copy

import torch
from torch import nn

from hf_compress.data import load_data
from hf_compress.data.images import Collator
from hf_compress.models.folding import unfold_batch_norms
from hf_compress.models.students import build_registered
from hf_compress.sections.data import DataSection

SPLITS = {"train": "train[:64]", "validation": "train[64:80]", "test": "train[80:99]"}


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def test_a_model_that_nobody_trained_is_no_folded_one():
    """Its means are 0 and its variances 1, too; statistics that undo its norms would keep it from learning."""
    data = load_data(DataSection(path="digits", splits=SPLITS), seed=0)
    loaded = build_registered("mobilenet_v2", data.label_names, width=0.125, image_size=32)
    before = copy.deepcopy(loaded.model.state_dict())
    assert not unfold_batch_norms(loaded, data)
    assert all(torch.equal(value, before[name]) for name, value in loaded.model.state_dict().items())


def test_statistics_are_those_of_the_images_and_logits_stay():
    data = load_data(DataSection(path="digits", splits=SPLITS), seed=0)
    loaded = build_registered("resnet18", data.label_names, width=0.125, image_size=32)
    for norm in norms(loaded.model):
        nn.init.uniform_(norm.bias)
        norm.running_var.fill_(1 - norm.eps)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        before = loaded.model.eval()(pixel_values=images).logits
        assert unfold_batch_norms(loaded, data)
        torch.testing.assert_close(loaded.model.eval()(pixel_values=images).logits, before, rtol=1e-3, atol=1e-3)
    twin = copy.deepcopy(loaded)
    assert not unfold_batch_norms(loaded, data)

    first = norms(twin.model)[0]
    first.momentum = None
    first.reset_running_stats()
    twin.model.train()
    batch = Collator(twin.processor)([data.train[index] for index in range(64)])
    with torch.no_grad():
        twin.model(pixel_values=batch["pixel_values"])
    known = norms(loaded.model)[0]
    torch.testing.assert_close(known.running_mean, first.running_mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(known.running_var, first.running_var, rtol=1e-2, atol=1e-4)
