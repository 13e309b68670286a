"""What a target does where the model does not run without some of its channels."""

import pytest
import torch
from torch import nn
from transformers.modeling_outputs import ImageClassifierOutput

from hf_compress.ground.errors import RunError
from hf_compress.measure.cost import count_macs
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.score.scoring import score
from hf_compress.steps.pruning.targets import removed_to_target


class Fragile(nn.Module):
    """A model that runs with at least six of its sixteen channels."""

    def __init__(self):
        super().__init__()
        self.made, self.read = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)

    def forward(self, pixel_values):
        maps = self.made(pixel_values).relu()
        if maps.shape[1] < 6:
            raise ValueError("too few channels")
        return ImageClassifierOutput(logits=self.read(maps.mean((2, 3))))


def removed(wanted, low=0.0):
    """Return the channels that are left, and the amount."""
    torch.manual_seed(0)
    model, image = Fragile().eval(), torch.rand(1, 3, 8, 8)
    config = PruneSection(target={"macs": wanted}, iterative=False, round_to=1)
    pruner = ChannelPruner(model, image, config, set())
    scores, whole = score(model, pruner.groups(model), config), count_macs(model, image)

    def gone(trial):
        return {"macs": 1 - count_macs(trial, image) / whole}

    trial, _, row = removed_to_target(model, scores, pruner, gone, config, low, 0.9)
    return trial.made.out_channels, row["amount"]


def test_an_amount_that_breaks_the_model_is_more_than_the_target():
    channels, amount = removed(0.25)
    assert channels == 12
    assert amount == pytest.approx(0.22, abs=0.02)


def test_where_the_target_breaks_the_model_the_rest_that_runs_is_kept():
    assert removed(0.8)[0] == 6


def test_where_no_amount_runs_the_layers_are_named():
    with pytest.raises(RunError, match="does not run after the removal of channels from made: exclude them"):
        removed(0.25, low=0.7)
