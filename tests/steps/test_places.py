"""What stands around a layer: its norm, what it is added to, and why it cannot be repaired."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_compress.steps.pruning.repair.places import find_places
from tests.nets import LAYERS, Net, Shared, assert_all_is_over, photos


def places_of(model):
    places, stay = find_places(model, photos(1)[0])
    assert_all_is_over(model)
    return {place.layer: place for place in places}, stay


def test_norm_skip_and_scale_of_a_layer_before_an_addition_are_found():
    model = Net()
    places, stay = places_of(model)
    assert not stay
    assert list(places) == LAYERS
    assert [places[name].norm for name in LAYERS] == [None, model.wide_norm, model.narrow_norm, None]
    assert [places[name].skip for name in LAYERS] == [None, None, ("stem", 1), None]
    norm = model.narrow_norm
    assert torch.allclose(places["narrow"].gain, norm.weight / (norm.running_var + norm.eps).sqrt(), rtol=1e-4)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("inplace", [True, False])
def test_what_passes_an_activation_before_the_addition_has_no_skip(norm, inplace):
    model = Net(norm=norm)
    model.before_addition = nn.ReLU(inplace)
    places, _ = places_of(model)
    assert places["narrow"].skip is None


def test_a_norm_behind_an_activation_in_place_is_not_the_layers():
    model = Net()
    model.narrow_norm = nn.Sequential(nn.ReLU(inplace=True), model.narrow_norm)
    places, _ = places_of(model)
    assert (places["narrow"].norm, places["narrow"].skip) == (None, None)


class Preactivated(Net):
    """What `narrow` makes goes to its norm, and by itself to the sum."""

    def forward(self, pixel_values):
        x = self.narrow(self.wide_norm(self.wide(self.stem(pixel_values))).relu())
        return self.classify((x + self.narrow_norm(x).relu()).mean((2, 3)))


@pytest.mark.parametrize(("build", "layer"), [(Preactivated, "narrow"), (Shared, "wide"), (Shared, "other")])
def test_a_norm_is_a_layers_where_both_have_to_do_with_nothing_else(build, layer):
    places, _ = places_of(build())
    assert places[layer].norm is None


class Standardised(nn.Conv2d):
    def forward(self, source):
        weight = (self.weight - self.weight.mean()) / self.weight.std()
        return F.conv2d(source, weight, self.bias, self.stride, self.padding)


class Twice(Net):
    def forward(self, pixel_values):
        return super().forward(pixel_values)["logits"] + self.classify(torch.ones(1, self.classify.in_features))


def test_layers_that_are_more_than_one_product_stay_as_they_are():
    model = Twice()
    model.narrow = Standardised(12, 8, 1)
    places, stay = places_of(model)
    assert list(places) == ["stem", "wide"]
    assert stay == {
        "narrow": "it is more than a product with its weight",
        "classify": "it runs several times, or never",
    }


def test_layers_that_share_a_weight_stay_as_they_are():
    model = Net(hidden=8)
    model.narrow = nn.Conv2d(8, 8, 3, padding=1)
    model.narrow.weight = model.wide.weight
    places, stay = places_of(model)
    assert list(places) == ["stem", "classify"]
    assert list(stay) == ["wide", "narrow"]
