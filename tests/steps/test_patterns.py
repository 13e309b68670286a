"""Granularity n:m: the pattern holds everywhere, the strongest weights stay, what cannot take it is named."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForImageClassification

from hf_compress import compress, to_semi_structured
from hf_compress.checkpoint.semi_structured import CAPABILITY, is_two_of_four
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.run.recipe import Recipe
from hf_compress.sections.base import validate
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.weights import PatternPruner, pattern_mask

SPLITS = {"train": "train[:200]", "validation": "train[200:300]", "test": "train[300:400]"}
GPU = torch.cuda.is_available() and torch.cuda.get_device_capability() >= CAPABILITY


def config(**options):
    return PruneSection(granularity="n:m", **options)


def blocks(weight, m):
    return weight.movedim(1, -1).reshape(-1, m)


@settings(deadline=None, max_examples=40)
@given(
    n_of_m=st.sampled_from([(1, 4), (2, 4), (3, 4), (1, 2), (4, 8)]),
    outputs=st.integers(1, 6),
    groups=st.integers(1, 4),
    kernel=st.sampled_from([(), (1, 1), (3, 3)]),
    seed=st.integers(0, 1000),
)
def test_the_n_strongest_of_each_m_stay(n_of_m, outputs, groups, kernel, seed):
    n, m = n_of_m
    weight = torch.randn(outputs, groups * m, *kernel, generator=torch.Generator().manual_seed(seed))
    mask = pattern_mask(weight.abs(), n, m)
    assert mask.shape == weight.shape
    assert (blocks(mask, m).sum(dim=1) == n).all()
    weakest_kept = blocks(weight.abs().masked_fill(~mask, torch.inf), m).amin(dim=1)
    assert (blocks(weight.abs().masked_fill(mask, 0), m).amax(dim=1) <= weakest_kept).all()


def test_a_hand_computed_row():
    layer = nn.Linear(8, 1, bias=False)
    layer.weight.data = torch.tensor([[0.1, -0.9, 0.3, 0.2, -5.0, 4.0, 3.0, 2.0]])
    pruner = PatternPruner(nn.Sequential(layer), config(), set())
    pruner.prune(nn.Sequential(layer), 0.5)
    assert layer.weight.tolist() == [pytest.approx([0, -0.9, 0.3, 0, -5.0, 4.0, 0, 0])]
    assert not torch.signbit(layer.weight[0, 6:]).any()
    assert is_two_of_four(layer.weight)
    assert pruner.sparsity(nn.Sequential(layer)) == 0.5


def test_of_each_four_one_is_left():
    layer = nn.Linear(8, 1, bias=False)
    layer.weight.data = torch.tensor([[0.1, -0.9, 0.3, 0.2, -5.0, 4.0, 3.0, 2.0]])
    PatternPruner(nn.Sequential(layer), config(pattern="1:4"), set()).prune(nn.Sequential(layer), 0.75)
    assert layer.weight.tolist() == [pytest.approx([0, -0.9, 0, 0, -5.0, 0, 0, 0])]


def test_layers_that_cannot_take_the_pattern_are_named():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1), nn.Linear(8, 2))
    pruner = PatternPruner(model, config(), {"3"})
    assert pruner.parameter_names == {"2.weight"}
    assert pruner.protected == {
        "0": "its input dimension 3 is not a multiple of 4",
        "1": "its input dimension 1 is not a multiple of 4",
        "3": "excluded by the recipe",
    }
    with pytest.raises(RunError, match="no layer's input dimension is a multiple of 4"):
        PatternPruner(nn.Sequential(nn.Linear(3, 2)), config(), set())


@pytest.mark.parametrize("pattern", ["4:2", "0:4", "2", "a:b", 124])
def test_a_wrong_pattern_is_a_usage_error(pattern):
    with pytest.raises(UsageError, match="pattern"):
        validate(PruneSection, {"granularity": "n:m", "pattern": pattern})


@pytest.mark.parametrize("option", [{"target": {"sparsity": 0.5}}, {"scope": "global"}, {"dim": 0}])
def test_options_that_contradict_the_pattern_are_errors(option):
    with pytest.raises(UsageError, match=f"{next(iter(option))} does nothing here"):
        validate(PruneSection, {"granularity": "n:m", **option})


@pytest.mark.long
def test_a_run_keeps_the_pattern_through_training_and_reloads(tmp_path):
    recipe = Recipe.from_dict(
        {
            "student": {"model": "resnet18", "width": 0.25, "image_size": 16},
            "data": {"path": "digits", "splits": SPLITS},
            "measure": {"batch_size": 4, "repeats": 3},
            "steps": [
                {"prune": {"granularity": "n:m", "pattern": "2:4", "recovery": {"epochs": 1}}},
                {"finetune": {"epochs": 1}},
            ],
        }
    )
    lines = []
    run = compress(recipe, tmp_path / "run", log=lines.append)
    details = next(row for row in run.report["rows"] if row["stage"] == "1 prune")["details"]
    stem = "resnet.embedder.embedder.convolution"
    assert details["protected_layers"] == {stem: "its input dimension 3 is not a multiple of 4"}
    assert any(stem in line for line in lines)
    assert details["rounds"][0]["sparsity"] == pytest.approx(0.5)
    model = AutoModelForImageClassification.from_pretrained(run.folder)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and name != stem:
            assert ((blocks(module.weight, 4) != 0).sum(dim=1) <= 2).all()
    before, after = (row["cost"]["bytes"] for row in run.report["rows"][:2])
    assert after < 0.6 * before


@pytest.mark.skipif(GPU, reason="this machine has a GPU with sparse tensor cores")
def test_without_such_a_gpu_semi_structured_weights_are_refused():
    with pytest.raises(RunError, match=r"compute capability 8\.0"):
        to_semi_structured(nn.Sequential(nn.Linear(64, 64)))


@pytest.mark.skipif(not GPU, reason="needs an NVIDIA GPU of compute capability 8.0 or higher")
def test_semi_structured_weights_give_the_same_outputs():
    model = nn.Sequential(nn.Linear(128, 128), nn.Linear(128, 128)).half().cuda()
    PatternPruner(model, config(), {"1"}).prune(model, 0.5)
    inputs = torch.randn(64, 128, device="cuda", dtype=torch.float16)
    expected = model(inputs)
    assert to_semi_structured(model) == {"1": "its weights are not 2:4 sparse"}
    assert torch.allclose(model(inputs), expected, atol=1e-2)
