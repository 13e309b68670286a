"""Folding batch norms changes no output."""

import copy

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel
from transformers.modeling_outputs import ImageClassifierOutput

from hf_compress.ground.outputs import output_tensors
from hf_compress.models.folding import fold_batch_norms


@pytest.mark.parametrize("kind", [ResNetForImageClassification, ResNetModel])
def test_folding_changes_no_output_and_leaves_the_model_alone(kind):
    torch.manual_seed(0)
    model = kind(ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[1], layer_type="basic")).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    before = copy.deepcopy(model.state_dict())
    folded = fold_batch_norms(model, torch.zeros(1, 3, 32, 32))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    pictures = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(output_tensors(folded(pictures)), output_tensors(model(pictures)), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Twice(nn.Module):
    """The convolution is read by its batch norm, and by one of the outputs."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, pixel_values):
        made = self.convolution(pixel_values)
        return ImageClassifierOutput(logits=self.norm(made).mean(dim=(2, 3)), hidden_states=made)


def test_a_convolution_that_is_read_twice_is_not_folded():
    model = Twice().eval()
    assert isinstance(fold_batch_norms(model, torch.zeros(1, 3, 8, 8)).norm, nn.BatchNorm2d)


class Selecting(nn.Module):
    """A detector of two queries that score alike: rounding, which folding changes, decides their order."""

    def __init__(self):
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, pixel_values):
        boxes = self.norm(self.convolution(pixel_values)).mean(dim=(2, 3)).sigmoid()
        queries = torch.stack([boxes, boxes.flip(1)], dim=1)
        if not isinstance(self.norm, nn.BatchNorm2d):
            queries = queries.flip(1)
        return {"logits": queries[..., :2], "pred_boxes": queries, "last_hidden_state": queries}


def test_queries_in_another_order_are_no_other_outputs():
    model = Selecting().eval()
    assert isinstance(fold_batch_norms(model, torch.zeros(1, 3, 8, 8)).norm, nn.Identity)
