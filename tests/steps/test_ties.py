"""Groups that lose channels together although they have unequal numbers of units: an embedding and its heads."""

import re

import pytest
import torch
from torch import nn

from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import BREAKS, ChannelPruner
from hf_compress.steps.pruning.remove.removal import remove_units
from hf_compress.steps.pruning.remove.ties import tied
from tests.architectures import CAPABILITIES, examine
from tests.families import timm
from tests.steps.test_groups import without_readers

CONFIG = PruneSection(round_to=1)
IMAGE = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Gives each head its share of the embedding, as many heads do."""

    def __init__(self, width, heads):
        super().__init__()
        self.num_heads, self.scale = heads, 0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.register_buffer("angles", torch.arange(1.0, width // heads + 1), persistent=False)

    def forward(self, x):
        batch, places, width = x.shape
        qkv = self.qkv(x).reshape(batch, places, 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q = q * self.angles.cos()  # each channel of a head is turned by its own angle
        mixed = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1) @ v
        return x + self.proj(mixed.transpose(1, 2).reshape(batch, places, width))


class Transformer(nn.Module):
    """Layers of one width with heads of their own number, and a hidden layer."""

    def __init__(self, heads=(3, 6), width=12):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, width, 1)
        self.layers = nn.ModuleList([Attention(width, number) for number in heads])
        self.hidden, self.back = nn.Linear(width, 8), nn.Linear(8, width)
        self.classifier = nn.Linear(width, 2)

    def forward(self, pixel_values):
        x = self.embed(pixel_values).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        x = x + self.back(self.hidden(x).relu())
        return {"logits": self.classifier(x.mean(1))}


def test_an_embedding_and_its_heads_go_together_and_as_if_nothing_read_them():
    """12 channels with 3 and with 6 heads: a unit is 4 channels, one head of the three, and two of the six."""

    model = Transformer()
    pruner = ChannelPruner(model, IMAGE[:1], CONFIG, set())
    embedding, hidden = sorted(pruner.groups(model), key=lambda group: group.name)
    assert (embedding.name, embedding.units, embedding.unit) == ("embed", 3, 4)
    assert (hidden.name, hidden.units) == ("hidden", 8)
    expected = without_readers(model, embedding, [1])(IMAGE)["logits"]
    remove_units(model, [embedding], {"embed": [1]}, pruner.attributes)
    assert [layer.num_heads for layer in model.layers] == [2, 4]
    assert [layer.qkv.weight.shape for layer in model.layers] == [(24, 8), (24, 8)]
    assert torch.allclose(model(IMAGE)["logits"], expected, atol=1e-6)


def test_a_second_round_joins_what_is_left_and_a_last_unit_stays():
    model = Transformer()
    pruner = ChannelPruner(model, IMAGE[:1], PruneSection(round_to=1, floor=0), set())
    for left in (2, 1):
        pruner.prune(model, 1 - left / 3)
        assert model.embed.out_channels == 4 * left
        assert [layer.num_heads for layer in model.layers] == [left, 2 * left]
    assert [group.name for group in pruner.groups(model)] == ["hidden"]


def test_only_blocks_tie_groups_and_never_into_one_unit():
    def groups(*heads):
        model = Transformer(heads)
        return {group.name: group for group in ChannelPruner(model, IMAGE[:1], CONFIG, set()).groups(model)}

    found = groups(3)
    embedding, heads = found["embed"].parts
    assert (embedding.units, heads.units, found["embed"].width) == (12, 3, 12)
    assert tied([embedding, heads, found["hidden"]]) == [[embedding, heads]]
    assert tied([embedding, found["hidden"]]) == []
    with pytest.raises(Exception, match="'embed': the model does not run"):
        ChannelPruner(Transformer((3, 4)), IMAGE[:1], CONFIG, {"hidden"})


class Halves(nn.Module):
    """Two halves of one convolution, told apart by a width of the module; the second is what is left."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.width = 8
        self.both, self.first, self.reader = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 6, 1), nn.Conv2d(10, 5, 1)
        self.classifier = nn.Linear(5, 2)

    def forward(self, pixel_values):
        first, second = self.both(pixel_values).split(self.width // 2, dim=1)
        hidden = torch.cat([self.first(first), second], dim=1)
        return {"logits": self.classifier(self.reader(hidden).mean((2, 3)))}


def test_a_half_of_a_split_goes_with_its_twin_even_where_that_could_go_alone():
    model = Halves()
    pruner = ChannelPruner(model, IMAGE[:1], PruneSection(round_to=2), set())
    groups = {group.makers[0]: group for group in pruner.groups(model)}
    assert {name: group.units for name, group in groups.items()} == {"both": 4, "first": 6, "reader": 5}
    halves = groups["both"]
    expected = without_readers(model, halves, [0, 3])(IMAGE)["logits"]
    remove_units(model, [halves], {halves.name: [0, 3]}, pruner.attributes)
    assert (model.width, model.both.out_channels, model.first.in_channels) == (4, 4, 2)
    assert torch.allclose(model(IMAGE)["logits"], expected, atol=1e-6)


def test_the_reason_names_the_operation_and_the_layer():
    """Four heads and three have no common share of twelve channels."""
    pruner = ChannelPruner(Transformer((3, 4)), IMAGE[:1], CONFIG, set())
    assert pruner.protected["embed"] == f"{BREAKS}: 'reshape' fails in 'layers.0'"
    assert list(pruner.widths) == ["hidden"]


FREED = [
    timm("xcit_nano_12_p16_224", 32, depth=2, embed_dim=32, num_heads=4),
    timm("cait_xxs24_224", 32, img_size=32, depth=2, embed_dim=32, num_heads=4),
    timm("vit_base_patch16_siglip_224", 32, img_size=32, depth=2, embed_dim=32, num_heads=4),
    timm("edgenext_xx_small", 64, dims=[24, 48, 88, 168], depths=[1, 2, 2, 2]),
    timm("vit_small_patch16_dinov3", 32, img_size=32, depth=2, embed_dim=32, num_heads=4),
    timm("eva02_tiny_patch14_224", 28, img_size=28, depth=2, embed_dim=32, num_heads=4),
    timm("beit_base_patch16_224", 32, img_size=32, depth=2, embed_dim=32, num_heads=4),
    timm("vit_relpos_small_patch16_224", 48, img_size=48, depth=2, embed_dim=32, num_heads=4),
    timm("convit_tiny", 32, img_size=32, depth=2, local_up_to_layer=1, embed_dim=8, num_heads=4),
    timm("swinv2_tiny_window8_256", 32, img_size=32, window_size=4, embed_dim=16, depths=[1, 2], num_heads=[2, 4]),
    timm("davit_tiny", 64, depths=[1, 1, 1, 1], embed_dims=[16, 32, 32, 64], num_heads=[2, 4, 4, 8]),
]


@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=() if "siglip" in family.name else pytest.mark.long) for family in FREED],
    ids=[family.name for family in FREED],
)
def test_a_freed_family_shrinks_is_repaired_distilled_and_reloaded(family):
    row = examine(family)
    assert row.failure == ""
    assert list(row.done) == list(CAPABILITIES)
    assert int(re.match(r"parameters -(\d+)%", row.done["channels"])[1]) >= 50
    assert set(row.kept.values()) == {"gives the logits"}
