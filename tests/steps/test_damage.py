"""The scope `damage`: groups weigh by what the model's outputs lose, as measured after those who read them made up."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import ImageClassifierOutput

from hf_compress.ground.errors import UsageError
from hf_compress.steps.pruning.allocate.units import Ranked, allocate
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.gradual import GradualPruning
from hf_compress.steps.pruning.score import damage, surgeon
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.scoring import score
from hf_compress.steps.pruning.tracing.groups import find_groups
from hf_compress.tasks.base import TASKS


class Two(nn.Module):
    """Two branches with the same weights, of which one counts three times as much in the logits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.one_read = nn.Linear(48, 8), nn.Linear(8, 5)
        self.two, self.two_read = nn.Linear(48, 8), nn.Linear(8, 5)
        self.one.weight.data *= torch.arange(1.0, 9)[:, None]
        self.two.load_state_dict(self.one.state_dict())
        self.two_read.load_state_dict(self.one_read.state_dict())
        self.eval()

    def forward(self, pixel_values):
        flat = pixel_values.flatten(1)
        one, two = self.one_read(self.one(flat).relu()), self.two_read(self.two(flat).relu())
        return ImageClassifierOutput(logits=one + 3 * two)


class Images(Calibration):
    def pixel_values(self):
        yield torch.stack([self.images[index] for index in range(len(self.images))])


@pytest.fixture
def calibration(monkeypatch):
    monkeypatch.setattr(surgeon, "DAMPING", 1e-9)
    images = torch.rand(48, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return Images(list(images), None, None, TASKS.get("classification"))


@torch.no_grad()
def by_hand(model, name, scores, images):
    """Return the factor of a branch: its lowest units go, and its reader is fitted anew by least squares."""
    said = model(images).logits
    inputs = getattr(model, name)(images.flatten(1)).relu().double()
    read = getattr(model, f"{name}_read")
    whole, factors = inputs @ read.weight.T.double(), []
    for count in (1, 2, 4):
        left = scores.argsort()[count:]
        fitted = inputs[:, left] @ torch.linalg.lstsq(inputs[:, left], whole).solution
        changed = said + (3 if name == "two" else 1) * (fitted - whole)
        lost = F.kl_div(changed.log_softmax(-1), said.log_softmax(-1), log_target=True, reduction="batchmean")
        factors.append(math.log(lost / scores.sort().values[:count].sum()))
    return math.exp(sum(factors) / len(factors))


@pytest.mark.parametrize("importance", ["obs", "l1"])
def test_scores_become_what_the_outputs_lose(monkeypatch, calibration, importance):
    monkeypatch.setattr(damage, "LOOKED_AT", 48)
    model = Two()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    groups, _ = find_groups(model, torch.rand(1, 3, 4, 4))
    plain = score(model, groups, PruneSection(importance=importance, scope="cost"), calibration)
    found = score(model, groups, PruneSection(importance=importance, scope="damage"), calibration)
    images = next(calibration.pixel_values())
    assert found.keys() == plain.keys() == {"one", "two"}
    for name, scores in plain.items():
        assert torch.allclose(found[name], scores * by_hand(model, name, scores, images), rtol=2e-2)
    assert (found["two"] > 4 * found["one"]).all()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_groups_compete_by_damage_and_cost():
    groups = [
        Ranked("cheap", torch.tensor([1.0, 2, 3, 4]), 1, 4, cost=1.0),
        Ranked("dear", torch.tensor([40.0, 60, 80, 100]), 1, 4, cost=8.0),
    ]
    config = PruneSection(importance="l1", scope="damage", floor=0.25, round_to=1, iterative=False, amount=0.25)
    assert allocate(groups, 0.25, config) == {"cheap": [0, 1]}


def test_where_no_images_are_the_scope_is_refused():
    config = PruneSection(granularity="weight", scope="global", amount=0.5, iterative=False)
    with pytest.raises(UsageError, match="scope 'damage' needs calibration images"):
        GradualPruning(config.model_copy(update={"scope": "damage"}))
    with pytest.raises(UsageError, match="use scope 'layer', 'global' or 'cost' here"):
        score(Two(), [], PruneSection(scope="damage"))
    with pytest.raises(ValueError, match="zeroed weights save no MACs: scope 'damage' needs granularity 'channel'"):
        PruneSection(granularity="weight", scope="damage")
