"""What a pruned model learns from, and how fast."""

import copy
import math

import pytest
import torch
from torch import nn

from hf_compress.ground.errors import UsageError
from hf_compress.sections.base import validate
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.recovery import BEARABLE, FASTEST, bearable_rate


class Linear(nn.Module):
    def __init__(self, pixels=3 * 8 * 8, outputs=400):
        super().__init__()
        self.linear = nn.Linear(pixels, outputs, bias=False)

    def forward(self, pixel_values):
        return {"logits": self.linear(pixel_values.flatten(1))}


class Images:
    """Stands for a `Calibration`: random images in batches, and the unpruned model."""

    def __init__(self, unpruned):
        self.unpruned = unpruned
        self.images = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def first(self, count):
        return self

    def pixel_values(self):
        return iter(self.images.split(16))


@pytest.fixture
def models():
    torch.manual_seed(0)
    unpruned = Linear()
    pruned = copy.deepcopy(unpruned)
    with torch.no_grad():
        pruned.linear.weight += 1e-3 * torch.randn_like(pruned.linear.weight)
    return unpruned, pruned


def test_the_rate_changes_outputs_by_a_part_of_their_variance_and_looking_changes_nothing(models):
    """Weights moved by `r` in random directions change a linear output by `r² |x|²` in mean squares."""
    unpruned, pruned = models
    before = pruned.linear.weight.clone()
    rows = Images(unpruned).images.flatten(1)
    outputs = pruned.linear(rows).detach()
    variance = (outputs - outputs.mean(0)).square().mean()
    expected = math.sqrt(BEARABLE * variance / rows.square().sum(1).mean())
    assert 1e-5 < expected < FASTEST
    assert bearable_rate(pruned, Images(unpruned)) == pytest.approx(expected, rel=0.05)
    assert torch.equal(pruned.linear.weight, before)


def test_half_the_weights_bear_half_the_rate(models):
    unpruned, pruned = models
    for model in models:
        model.linear.weight.data /= 2
    halved = bearable_rate(pruned, Images(unpruned))
    for model in models:
        model.linear.weight.data *= 2
    assert halved == pytest.approx(bearable_rate(pruned, Images(unpruned)) / 2, rel=0.05)


@pytest.mark.parametrize("factor", [-1.0, float("nan")])
def test_a_model_with_nothing_to_lose_learns_fast(models, factor):
    unpruned, pruned = models
    pruned.linear.weight.data *= factor
    assert bearable_rate(pruned, Images(unpruned)) == FASTEST


def test_zeros_that_stay_are_not_moved(models):
    unpruned, pruned = models
    mask = torch.rand_like(pruned.linear.weight) < 0.5
    for model in models:
        model.linear.weight.data *= mask
    free, held = (bearable_rate(pruned, Images(unpruned), names) for names in (frozenset(), {"linear.weight"}))
    assert held == pytest.approx(free * math.sqrt(2), rel=0.05)


def test_sgd_needs_a_rate():
    sgd = {"recovery": {"optimizer": "sgd"}}
    with pytest.raises(UsageError, match=r"'recovery' cannot be .*with optimizer sgd, learning_rate must be named"):
        validate(PruneSection, sgd)
    assert validate(PruneSection, {"recovery": {"optimizer": "sgd", "learning_rate": 0.1}})
    assert validate(PruneSection, {"recovery": {"optimizer": "sgd", "epochs": 0}})
