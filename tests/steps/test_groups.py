"""Groups of channels: what belongs together is found, and removing it is what zeroing it would be."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_compress.steps.pruning.allocate.units import Ranked, allocate, kept_width
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import UNORDERED, ChannelPruner
from hf_compress.steps.pruning.remove.removal import remove_units
from hf_compress.steps.pruning.tracing.groups import find_groups
from tests.families import FAMILIES

CONFIG = PruneSection(round_to=2)


def family(name):
    chosen = next(family for family in FAMILIES if family.name == name.replace("timm_", "timm "))
    return chosen.build(), torch.rand(1, 3, chosen.image_size, chosen.image_size)


def logits(model, image):
    with torch.no_grad():
        return model(pixel_values=image).logits


def without_readers(model, group, units):
    """A copy that has the units, but in which no layer reads them."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for member in group.members:
            module = model.get_submodule(member.axis.module)
            if isinstance(module, (nn.Linear, nn.Conv2d)) and (member.axis.tensor, member.axis.dim) == ("weight", 1):
                module.weight[:, member.indices[units].flatten()] = 0
    return model


@pytest.mark.parametrize(
    "name",
    [
        "vit",
        "beit",
        "swin",
        "swinv2",
        "levit",
        "hiera",
        "mobilevit",
        "cvt",
        "pvt",
        "regnet",
        "timm_vit_tiny_patch16_224",
    ],
)
def test_a_removed_block_is_as_if_nothing_read_it(name):
    """Attention heads and groups of convolutions: the rest of the model computes the same."""
    model, image = family(name)
    pruner = ChannelPruner(model, image, CONFIG, set())
    blocks = [group for group in pruner.groups(model) if group.unit > 1]
    assert blocks
    for group in blocks[:3]:
        smaller = copy.deepcopy(model)
        remove_units(smaller, [group], {group.name: [0]}, pruner.attributes)
        expected = logits(without_readers(model, group, [0]), image)
        assert not torch.allclose(expected, logits(model, image), atol=1e-6)
        assert torch.allclose(logits(smaller, image), expected, rtol=1e-3, atol=1e-5)


def test_channels_that_any_output_gives_stay_whole():
    class Described(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.describe, self.classify = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 4, 1)

        def forward(self, pixel_values):
            maps = self.describe(self.stem(pixel_values).relu())
            return {"logits": self.classify(maps), "maps": maps}

    (group,), why = find_groups(Described(), torch.rand(1, 3, 8, 8))
    assert group.makers == ["stem"]
    assert why == {"describe": "gives the maps", "classify": "gives the logits"}


def test_the_modules_of_a_transformer_count_what_is_left():
    model, image = family("swinv2")
    ChannelPruner(model, image, CONFIG, set()).prune(model, 0.5)
    attention = model.swinv2.encoder.layers[1].blocks[0].attention.self
    assert (attention.num_attention_heads, attention.attention_head_size, attention.all_head_size) == (2, 8, 16)
    assert attention.query.weight.shape == (16, 16)
    assert attention.logit_scale.shape[0] == 2
    assert attention.continuous_position_bias_mlp[2].out_features == 2
    assert model.swinv2.layernorm.normalized_shape == (16,)


def test_grouped_convolutions_and_group_norms_keep_the_size_of_a_group():
    model, image = family("regnet")
    before = {name: m.in_channels // m.groups for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    grouped = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    ChannelPruner(model, image, CONFIG, set()).prune(model, 0.5)
    for name in grouped:
        convolution = model.get_submodule(name)
        assert convolution.in_channels // convolution.groups == before[name]
        assert convolution.groups == convolution.weight.shape[0] // before[name]
    model, image = family("bit")
    norms = {name: m.num_channels // m.num_groups for name, m in model.named_modules() if isinstance(m, nn.GroupNorm)}
    ChannelPruner(model, image, CONFIG, set()).prune(model, 0.5)
    for name, size in norms.items():
        norm = model.get_submodule(name)
        assert norm.num_groups == 2
        assert norm.num_channels == norm.weight.shape[0] == 2 * size


def test_groups_that_only_run_together_lose_channels_together():
    """FocalNet splits the output of one layer by the width of the input."""
    model, image = family("focalnet")
    pruner = ChannelPruner(model, image, CONFIG, set())
    stem = next(group for group in pruner.groups(model) if group.name.endswith("patch_embeddings.projection"))
    assert "focalnet.encoder.stages.0.layers.0.modulation.projection_in" in stem.makers
    assert ("focalnet.encoder.stages.0.downsample", "num_channels", None) in pruner.attributes[stem.name]
    pruner.prune(model, 0.5)
    assert model.focalnet.encoder.stages[0].layers[0].modulation.projection_in.out_features == 2 * 8 + 3


class Wired(nn.Module):
    """Two convolutions whose outputs are concatenated, and a classifier."""

    def __init__(self, after=lambda hidden: hidden):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1)
        self.reader = nn.Conv2d(10, 8, 1)
        self.classifier = nn.Linear(8, 2)
        self.after = after

    def forward(self, pixel_values):
        hidden = torch.cat([self.one(pixel_values), self.two(pixel_values)], dim=1)
        hidden = self.after(torch.relu(self.reader(hidden))).mean(dim=(2, 3))
        return SimpleNamespace(logits=self.classifier(hidden))


def test_parts_of_a_concatenation_are_groups_of_their_own():
    model, image = Wired(), torch.rand(1, 3, 4, 4)
    groups, reasons = find_groups(model, image)
    assert {group.name: group.units for group in groups} == {"one": 4, "two": 6, "reader": 8}
    assert reasons == {"classifier": "gives the logits"}
    columns = model.reader.weight[:, [0, 1, 2, 3, 4, 6, 7, 8]].clone()
    remove_units(model, groups, {"two": [1, 5]}, {})
    assert torch.equal(model.reader.weight, columns)
    assert (model.two.out_channels, model.reader.in_channels) == (4, 8)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (lambda hidden: hidden.cumsum(dim=1), UNORDERED),
        (lambda hidden: hidden + torch.arange(8.0).view(1, 8, 1, 1), "meets a fixed width in '' (add)"),
        (lambda hidden: nn.functional.pad(hidden[:, 1:], (0, 0, 0, 0, 0, 1)), "is padded with zeros in ''"),
        (lambda hidden: hidden.sort(dim=1).values, UNORDERED),
        (lambda hidden: hidden.index_select(1, torch.arange(8)), "enters the operation 'index_select' in '', which"),
    ],
)
def test_channels_whose_order_matters_stay_and_the_reason_is_told(after, reason):
    pruner = ChannelPruner(Wired(after), torch.rand(1, 3, 4, 4), CONFIG, set())
    assert pruner.protected["reader"].startswith(reason)
    assert set(pruner.widths) == {"one", "two"}


class Scale(nn.Module):
    """Scales each channel, and adds what it computes for itself."""

    def __init__(self, offsets):
        super().__init__()
        self.shape, self.scale = (1, 8, 1, 1), nn.Parameter(torch.rand(8))
        self.register_buffer("offsets", offsets, persistent=False)

    def forward(self, hidden):
        return hidden * self.scale.view(self.shape) + self.offsets.view(self.shape)


def test_a_width_in_a_tuple_follows_and_what_is_computed_does_where_it_is_the_same_all_along():
    model, image = Wired(Scale(torch.zeros(8))), torch.rand(1, 3, 4, 4)
    pruner = ChannelPruner(model, image, CONFIG, set())
    assert pruner.attributes["reader"] == [("after", "shape", 1)]
    pruner.prune(model, 0.25)
    assert (model.after.shape, model.after.scale.shape, model.after.offsets.shape) == ((1, 6, 1, 1), (6,), (6,))
    pruner = ChannelPruner(Wired(Scale(torch.arange(8.0))), image, CONFIG, set())
    assert pruner.protected["reader"] == "meets a fixed width in 'after' (add)"


def test_where_single_precision_overflows_double_precision_decides():
    model = Wired(lambda hidden: hidden * 1e30 * 1e30)
    pruner = ChannelPruner(model, torch.rand(1, 3, 4, 4), CONFIG, set())
    assert set(pruner.widths) == {"one", "two", "reader"}


def test_trials_leave_a_model_with_a_shared_module_as_it_was():
    model = Wired()
    model.two = model.one
    model.reader = nn.Conv2d(8, 8, 1)
    before = dict(model.named_parameters())
    ChannelPruner(model, torch.rand(1, 3, 4, 4), CONFIG, set())
    assert all(tensor is before[name] for name, tensor in model.named_parameters())


def test_plans_take_whole_units_and_multiples():
    config = PruneSection(round_to=8, floor=0.25)
    assert [kept_width(64, unit, 0.5, config) for unit in (1, 16, 24)] == [32, 32, 24]
    assert [kept_width(64, unit, 0.4, config) for unit in (1, 12, 16)] == [40, 48, 32]
    assert kept_width(64, 16, 0.99, config) == 16
    assert kept_width(64, 1, 0.99, config) == 16
    scores = torch.tensor([3.0, 1.0, 2.0, 4.0])
    assert allocate([Ranked("heads", scores, 16, 64)], 0.5, config) == {"heads": [1, 2]}


def test_globally_a_unit_counts_as_the_channels_it_takes():
    heads = Ranked("heads", torch.tensor([0.1, 1.0, 1.9, 1.0]), 8, 32)
    hidden = Ranked("hidden", torch.linspace(0.5, 1.5, 32), 1, 32)
    config = PruneSection(round_to=1, floor=0, scope="global")
    assert allocate([heads, hidden], 8 / 64, config) == {"heads": [0]}
    assert allocate([heads, hidden], 16 / 64, config)["hidden"] == list(range(8))


def test_globally_importance_is_relative_to_the_mean_of_the_group():
    """Relative to their means the scores are 0.4, 0.8, 1.2, 1.6 and 0.25, 0.75, 1.25, 1.75."""
    small = Ranked("small", torch.tensor([1.0, 2.0, 3.0, 4.0]), 1, 4)
    large = Ranked("large", torch.tensor([1000.0, 3000.0, 5000.0, 7000.0]), 1, 4)
    config = PruneSection(round_to=1, floor=0, scope="global")
    assert allocate([small, large], 1 / 8, config) == {"large": [0]}
    assert allocate([small, large], 4 / 8, config) == {"small": [0, 1], "large": [0, 1]}
