"""The interface of importance: what a criterion is given, what it must give, and the Taylor criterion by hand."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_compress.data.images import IGNORED_LABEL
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.gradual import GradualPruning
from hf_compress.steps.pruning.remove.weights import WeightPruner
from hf_compress.steps.pruning.score import calibration as calibration_module
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.criteria import register_importance
from hf_compress.steps.pruning.score.scoring import score
from hf_compress.steps.pruning.tracing.groups import find_groups, group_of_weight
from hf_compress.tasks.classification import CLASSIFICATION

IMAGE = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
TAYLOR = PruneSection(importance="taylor")


class Network(nn.Module):
    """A convolution makes two channels, (1, 2) for the image, that are the logits of two classes."""

    def __init__(self):
        super().__init__()
        self.maker, self.norm = nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2, affine=False)
        self.reader = nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.maker.weight.copy_(torch.tensor([[1.0, 5, 6], [2, 7, 8]]).view(2, 3, 1, 1))
            self.reader.weight.copy_(torch.eye(2))
        self.norm.eps = 0.0

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.reader(self.norm(self.maker(pixel_values)).flatten(1)))


def calibration(*labels, unpruned=None):
    def processor(views, return_tensors):
        return {"pixel_values": torch.stack(views).float()}

    items = [{"view": IMAGE[0].byte(), "label": label} for label in labels]
    return Calibration(items, processor, unpruned, CLASSIFICATION)


@pytest.fixture(autouse=True)
def batches_of_one(monkeypatch):
    monkeypatch.setattr(calibration_module, "BATCH", 1)


@pytest.fixture
def model():
    return Network().eval()


def taylor_by_hand(*labels):
    """The slope of the loss at a channel h is p - y, and -(p - y) at the other: h (p - y), squared, in the mean."""
    second = 1 / (1 + math.exp(-1))  # the probability of class 1 where the logits are 1 and 2
    slopes = [second if label == 0 else second - 1 for label in labels]
    return [sum((height * slope) ** 2 for slope in slopes) / len(slopes) for height in (1, 2)]


@pytest.mark.parametrize("labels", [(0,), (1,), (0, 1, 1)], ids=str)
def test_taylor_is_the_mean_of_squared_changes_when_nothing_reads_a_channel(model, labels):
    groups, _ = find_groups(model, IMAGE)
    scores = score(model, groups, TAYLOR, calibration(*labels))
    assert list(scores) == ["maker"]
    assert scores["maker"].tolist() == pytest.approx(taylor_by_hand(*labels), rel=1e-5)


def test_images_without_label_get_the_answer_of_the_unpruned_model(model):
    groups, _ = find_groups(model, IMAGE)
    unpruned = copy.deepcopy(model)
    found = score(model, groups, TAYLOR, calibration(IGNORED_LABEL, 0, unpruned=unpruned))
    assert found["maker"].tolist() == pytest.approx(taylor_by_hand(1, 0), rel=1e-5)


@pytest.mark.parametrize(("dim", "changes"), [(None, [1, 0, 0, -2, 0, 0]), (0, [1, -2]), (1, [-1, 0, 0])], ids=str)
def test_entries_and_slices_of_a_weight_are_units_like_channels(model, dim, changes):
    """The gradients of the first column are (p - y, y - p); the other pixels are black."""
    group = group_of_weight("maker.weight", model.maker.weight, dim)
    found = score(model, [group], TAYLOR, calibration(0))["maker.weight"]
    slope = 1 / (1 + math.exp(-1))
    assert found.tolist() == pytest.approx([(change * slope) ** 2 for change in changes], rel=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_scores_leave_the_model_as_it_was(model, training):
    model.train(training)
    model.reader.requires_grad_(False)
    model.maker.weight.grad = torch.full_like(model.maker.weight, 3.0)
    before = copy.deepcopy(model.state_dict())
    groups, _ = find_groups(model, IMAGE)
    score(model, groups, TAYLOR, calibration(0, IGNORED_LABEL, unpruned=model))
    assert model.training == model.norm.training == training
    assert not model.reader.weight.requires_grad and model.reader.weight.grad is None
    assert (model.maker.weight.grad == 3).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_criterion_of_images_is_refused_where_there_are_none(model):
    with pytest.raises(UsageError, match=r"'taylor' needs calibration images.*use one of l1, l2, ln, random"):
        WeightPruner(model, PruneSection(granularity="weight", importance="taylor"), set()).prune(model, 0.5)
    with pytest.raises(UsageError, match="'taylor' needs calibration images"):
        GradualPruning(PruneSection(granularity="weight", importance="taylor", target={"sparsity": 0.5}))


def test_a_criterion_sees_model_groups_and_images_and_gives_one_score_a_unit(model):
    @register_importance("test_activation", needs_images=True)
    def activation(model, groups, calibration):
        (images, labels), *_ = calibration.batches()
        assert labels.tolist() == [1]
        return {group.name: model.norm(model.maker(images)).flatten() for group in groups}

    @register_importance("test_too_few", needs_images=True)
    def too_few(model, groups, calibration):
        return {group.name: torch.ones(1) for group in groups}

    groups, _ = find_groups(model, IMAGE)
    found = score(model, groups, PruneSection(importance="test_activation"), calibration(1))
    assert found["maker"].tolist() == [1.0, 2.0]
    with pytest.raises(RunError, match=r"gives scores of shape \(1,\) for the 2 units of 'maker'"):
        score(model, groups, PruneSection(importance="test_too_few"), calibration(1))
