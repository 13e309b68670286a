"""Repair: layers as products, passes side by side, what stands around a layer, and what is answered afterwards."""

import copy
from collections import Counter
from importlib import import_module

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode
from transformers.pytorch_utils import Conv1D

from hf_compress.steps.pruning.remove.removal import remove_units
from hf_compress.steps.pruning.repair import moments as solving
from hf_compress.steps.pruning.repair.least_squares import least_squares
from hf_compress.steps.pruning.repair.linear import as_matrix, columns, rows, set_matrix
from hf_compress.steps.pruning.repair.lockstep import Lockstep
from hf_compress.steps.pruning.repair.moments import Moments
from hf_compress.steps.pruning.repair.places import find_places
from hf_compress.steps.pruning.tracing.groups import find_groups

repairing = import_module(least_squares.__module__)  # the package has the function by this name
MAPS = (2, 4, 9, 8)
PRODUCTS = {
    "1x1": (lambda: nn.Conv2d(4, 6, 1), MAPS),
    "1x1, strides": (lambda: nn.Conv2d(4, 6, 1, stride=(2, 3), bias=False), MAPS),
    "1x1, padded": (lambda: nn.Conv2d(4, 6, 1, padding=(1, 2)), MAPS),
    "3x3, stride": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), MAPS),
    "1x3": (lambda: nn.Conv2d(4, 6, (1, 3), padding=(0, 1)), MAPS),
    "dilated": (lambda: nn.Conv2d(4, 6, 3, dilation=(2, 1), padding=(2, 1), bias=False), MAPS),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), MAPS),
    "1x1 groups": (lambda: nn.Conv2d(4, 6, 1, groups=2), MAPS),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4, stride=2), MAPS),
    "depthwise, two outputs a channel": (lambda: nn.Conv2d(4, 8, 3, groups=4, padding=1), MAPS),
    "same, even kernel": (lambda: nn.Conv2d(4, 6, (4, 3), padding="same"), MAPS),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="circular"), MAPS),
    "reflect": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), MAPS),
    "linear of vectors": (lambda: nn.Linear(4, 6), (5, 4)),
    "linear of tokens": (lambda: nn.Linear(4, 6, bias=False), (2, 7, 4)),
    "Conv1D of tokens": (lambda: Conv1D(6, 4), (2, 7, 4)),
}


@pytest.mark.parametrize("name", PRODUCTS)
@torch.no_grad()
def test_a_layer_is_the_product_of_its_matrix_with_columns_and_its_matrix_can_be_changed(name):
    torch.manual_seed(0)
    build, shape = PRODUCTS[name]
    layer, source = build(), torch.randn(shape)
    for _ in range(2):
        product = columns(layer, source) @ as_matrix(layer).mT
        if layer.bias is not None:
            product += layer.bias.view(len(product), 1, -1)
        assert torch.allclose(product, rows(layer, layer(source)), atol=1e-5)
        matrix = as_matrix(layer) + torch.randn(as_matrix(layer).shape)
        set_matrix(layer, matrix)
        assert torch.equal(as_matrix(layer), matrix)


def test_layers_of_one_and_three_dimensions_are_no_products():
    with pytest.raises(NotImplementedError):
        columns(nn.Conv1d(4, 6, 3), torch.randn(2, 4, 9))


@pytest.mark.parametrize(("with_bias", "change", "bias"), [(True, 1 / 1.1, 4 - 2 / 1.1), (False, 9 / (5 * 1.1), 0.0)])
def test_moments_are_solved_as_by_hand(with_bias, change, bias):
    moments = Moments()
    moments.add(torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[3.0], [5.0]]]))
    found = moments.solved(with_bias)
    assert (moments.count, moments.energy) == (2, 34)
    assert [value.item() for value in found] == pytest.approx([change, bias])


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_moments_give_the_least_squares_over_what_is_free_however_samples_come(monkeypatch, with_bias, masked):
    monkeypatch.setattr(solving, "RIDGE", 1e-10)
    torch.manual_seed(0)
    z, r = torch.randn(2, 60, 5) + 1, torch.randn(2, 60, 3) - 2
    free = torch.rand(2, 3, 5) < 0.6 if masked else torch.ones(2, 3, 5, dtype=torch.bool)
    free[0, 1] = ~torch.tensor(masked)  # a row that has nothing left
    at_once, in_parts = Moments(), Moments()
    at_once.add(z, r)
    for part in (slice(0, 11), slice(11, 40), slice(40, 60)):
        in_parts.add(z[:, part], r[:, part])
    change, bias = at_once.solved(with_bias, free if masked else None)
    for group in range(2):
        for row in range(3):
            chosen = free[group, row]
            inputs = torch.cat([z[group][:, chosen], torch.ones(60, int(with_bias))], dim=1).double()
            expected = torch.linalg.lstsq(inputs, r[group, :, row, None].double()).solution.flatten()
            count = int(chosen.sum())
            assert torch.allclose(change[group, row, chosen], expected[:count], atol=1e-5)
            assert torch.allclose(bias[group, row], expected[count:].sum(), atol=1e-5)
            assert (change[group, row, ~chosen] == 0).all()
    again = in_parts.solved(with_bias, free if masked else None)
    assert in_parts.count == 60
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip((change, bias), again, strict=True))


class Net(nn.Module):
    """A stem, a residual block (its last layer `narrow` may have a norm) and a classifier."""

    def __init__(self, width=8, hidden=12, norm=True, seed=0):
        torch.manual_seed(seed)
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.wide = nn.Conv2d(width, hidden, 3, padding=1, bias=False)
        self.wide_norm = nn.BatchNorm2d(hidden)
        self.narrow = nn.Conv2d(hidden, width, 1, bias=not norm)
        self.narrow_norm = nn.BatchNorm2d(width) if norm else nn.Identity()
        self.classify = nn.Linear(width, 5)
        self.before_addition = nn.Identity()
        self.calls, self.ended = Counter(), 0
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                    values.uniform_(0.5, 1.5)
        self.eval()

    def forward(self, pixel_values):
        try:
            x = self.stem(pixel_values).relu()
            y = self.narrow_norm(self.narrow(self.wide_norm(self.wide(x)).relu()))
            x = x + self.before_addition(y)
            return {"logits": self.classify(x.relu().mean((2, 3)))}
        finally:
            self.ended += 1


LAYERS = ["stem", "wide", "narrow", "classify"]


def photos(batches=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(6, 3, 8, 8, generator=generator) for _ in range(batches)]


def counted(model):
    """Count the calls of each layer's `forward`."""
    for name in LAYERS:
        layer = model.get_submodule(name)
        plain = layer.forward

        def forward(source, name=name, plain=plain):
            model.calls[name] += 1
            return plain(source)

        layer.forward = forward
    return model


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


def assert_all_is_over(*models):
    assert sum(hooks(model) for model in models) == 0
    assert torch.is_grad_enabled()
    assert _get_current_dispatch_mode() is None


def test_batches_that_go_through_in_lockstep_come_out_as_from_a_forward_pass():
    models = counted(Net()), counted(Net(hidden=5, seed=1))
    with Lockstep(models) as lockstep:
        passes = [
            (model, images, lockstep.start(model, images, {"classify": ("stem", 1)}))
            for model in models
            for images in photos()
        ]
        for layer in LAYERS:
            for _, _, each in passes:
                each.to(layer)
                assert each.layer == layer
    assert_all_is_over(*models)
    for model in models:
        assert model.calls == dict.fromkeys(LAYERS, 3)
        assert model.ended == 3
    for model, images, each in passes:
        seen = []
        handle = model.wide.register_forward_hook(lambda layer, args, output, seen=seen: seen.append(args[0]))
        assert torch.equal(each.output, model(images)["logits"])
        handle.remove()
        assert torch.equal(each.skip, seen[0])


def test_a_pass_goes_on_with_another_output():
    model = Net()
    (images,) = photos(1)
    with Lockstep([model]) as lockstep:
        each = lockstep.start(model, images, {})
        each.to("narrow")
        assert torch.equal(each.output, model.narrow(each.source))
        each.output = torch.zeros_like(each.output)
        each.to("classify")
    model.narrow.weight.data.zero_()
    assert torch.equal(each.output, model(images)["logits"])


def test_an_exception_reaches_the_caller_and_leaves_nothing_behind():
    model = Net()
    model.before_addition.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError), Lockstep([model]) as lockstep:
        first, second = (lockstep.start(model, images, {}) for images in photos(2))
        first.to("stem")
        second.to("narrow")
        second.to("classify")
    assert model.ended == 2
    assert_all_is_over(model)


def test_passes_that_are_left_half_way_end():
    model = Net()
    with Lockstep([model]) as lockstep:
        half_way, _ = (lockstep.start(model, images, {}) for images in photos(2))
        half_way.to("wide")
    assert model.ended == 1
    assert_all_is_over(model)


def test_a_layer_that_does_not_run_is_said():
    model = Net()
    with Lockstep([model]) as lockstep:
        each = lockstep.start(model, photos(1)[0], {})
        each.to("wide")
        with pytest.raises(RuntimeError, match="the model did not run its layer 'stem'"):
            each.to("stem")
    assert_all_is_over(model)


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


class Shared(Net):
    """Two layers have one norm."""

    def __init__(self, **options):
        super().__init__(**options)
        self.other = nn.Conv2d(8, 12, 3, padding=1, bias=False)

    def forward(self, pixel_values):
        x = self.stem(pixel_values).relu()
        x = self.wide_norm(self.wide(x)).relu() + self.wide_norm(self.other(x)).relu()
        return self.classify(self.narrow(x).mean((2, 3)))


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


class Pooled(Net):
    """What is added to the block is made after its last layer."""

    def forward(self, pixel_values):
        x = self.stem(pixel_values).relu()
        y = self.narrow_norm(self.narrow(self.wide_norm(self.wide(x)).relu()))
        return self.classify((y + F.avg_pool2d(x, 3, 1, 1)).relu().mean((2, 3)))


class Branched(Net):
    """Two layers' outputs are added to one tensor."""

    def __init__(self, **options):
        super().__init__(**options)
        self.other = nn.Conv2d(8, 8, 1)

    def forward(self, pixel_values):
        x = self.stem(pixel_values).relu()
        one = x + self.narrow_norm(self.narrow(self.wide_norm(self.wide(x)).relu()))
        return self.classify((one * (x + self.other(x))).mean((2, 3)))


def pruned(model, units, group="wide"):
    """Return a copy without some units, and what is kept."""
    smaller = copy.deepcopy(model)
    groups, _ = find_groups(smaller, photos(1)[0][:1])
    return smaller, remove_units(smaller, groups, {group: units}, {})


def logits(model, batches=None):
    with torch.no_grad():
        said = [model(pixel_values=images) for images in batches or photos()]
    return torch.cat([each["logits"] if isinstance(each, dict) else each for each in said])


def error(model, other):
    return float((logits(model) - logits(other)).square().mean())


@pytest.mark.parametrize("build", [Pooled, Branched, Shared])
def test_whatever_is_added_the_outputs_get_nearer(build):
    model = build()
    smaller, kept = pruned(model, [0, 1, 2, 3])
    before = error(model, smaller)
    least_squares(model, smaller, kept, photos())
    assert error(model, smaller) < before / 2
    assert_all_is_over(model, smaller)


class Readers(nn.Module):
    """What the layer `made` makes is read by a convolution with a norm, one with a bias, and linear layers."""

    def __init__(self, norm):
        torch.manual_seed(0)
        super().__init__()
        self.made = nn.Conv2d(3, 8, 3, bias=not norm)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.one, self.one_norm = nn.Conv2d(8, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.two = nn.Conv2d(8, 6, 3, padding="same")
        self.three, self.four = nn.Linear(8, 6), Conv1D(6, 8)
        self.made.weight.data[1] = 0.2 * self.made.weight.data[1].sign() + 0.02  # half of it is positive
        tensors = [self.made.weight]
        if norm:
            self.norm.weight.data.uniform_(0.5, 1.5)
            self.norm.weight.data[3] = self.norm.weight.data[1]
            self.norm.running_mean.uniform_(-0.2, 0.2)
            self.norm.bias.data.uniform_(-0.1, 0.1)
            tensors += [self.norm.running_mean, self.norm.bias]
        else:
            tensors += [self.made.bias]
        with torch.no_grad():
            tensors[1][1] = self.made(torch.cat(photos()))[:, 1].mean() * (1 if norm else -1)
        for tensor in tensors:
            tensor.data[3] = 2 * tensor.data[1]
        self.one_norm.running_mean.uniform_(0.5, 1.5)
        self.eval()

    def forward(self, pixel_values):
        x = self.norm(self.made(pixel_values)).relu()
        tokens = x.flatten(2).mT
        y = torch.cat([self.one_norm(self.one(x)), self.two(x)], 1).flatten(2).mT
        return torch.cat([y, self.three(tokens), self.four(tokens.contiguous())], -1)


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("gone", [1, 3])
def test_what_another_channel_can_replace_goes_without_a_change(monkeypatch, norm, gone):
    monkeypatch.setattr(solving, "RIDGE", 1e-9)
    model = Readers(norm)
    smaller, kept = pruned(model, [gone], "made")
    assert not torch.allclose(logits(smaller), logits(model), atol=1e-2)
    assert least_squares(model, smaller, kept, photos(8)) == {}
    assert smaller.made.weight.shape[0] == 7
    assert torch.allclose(logits(smaller), logits(model), atol=1e-4)


@pytest.mark.parametrize("seed", range(12))
def test_repair_brings_the_outputs_nearer_and_each_layer_runs_once_a_batch(seed):
    model = Net(width=8, hidden=16, norm=seed % 2 == 0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    group, width, count = ("stem", 8, 3) if seed % 3 == 0 else ("wide", 16, 4 + seed % 8)
    smaller, kept = pruned(model, torch.randperm(width, generator=generator)[:count].tolist(), group)
    before, whole = error(model, smaller), copy.deepcopy(model.state_dict())
    model, smaller = counted(model), counted(smaller)
    least_squares(model, smaller, kept, photos())
    assert model.calls == dict.fromkeys(LAYERS, 1 + 3)
    changed = LAYERS if group == "stem" else LAYERS[1:]
    assert all(smaller.calls[name] <= 1 + 2 * 3 for name in LAYERS)
    assert all(smaller.calls[name] == 1 + 2 * 3 for name in changed[1:])
    assert error(model, smaller) < 0.9 * before
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())
    assert_all_is_over(model, smaller)


def test_zeros_of_sparse_parameters_stay_and_the_outputs_get_nearer():
    model = Net()
    with torch.no_grad():
        zeros = {name: torch.rand_like(model.get_submodule(name).weight) < 0.5 for name in ("narrow", "classify")}
    for name, zero in zeros.items():
        model.get_submodule(name).weight.data[zero] = 0
    smaller, kept = pruned(model, [0, 1, 2, 3])
    before = {name: smaller.get_submodule(name).weight == 0 for name in zeros}
    lost = error(model, smaller)
    least_squares(model, smaller, kept, photos(), ["narrow.weight"])
    assert (smaller.narrow.weight == 0).equal(before["narrow"])
    assert (smaller.classify.weight == 0).sum() < before["classify"].sum() / 2
    assert error(model, smaller) < 0.9 * lost


def test_where_outputs_are_added_a_layer_makes_up_for_what_the_other_lacks(monkeypatch):
    model = Net()
    model.stem.bias.data += 0.5
    smaller, kept = pruned(model, [0, 1], "stem")
    for trial in (blind := copy.deepcopy(smaller), seeing := copy.deepcopy(smaller)):
        trial.stem.bias.data -= 0.3  # what the skip lacks; the layer itself is not repaired
        monkeypatch.setattr(
            repairing, "find_places", lambda *arguments, trial=trial: _found(*arguments, with_skip=trial is seeing)
        )
        least_squares(model, trial, kept, photos())
    index = torch.from_numpy(kept["stem", "weight", 0])
    whole = sums(model)[:, index]
    assert (sums(seeing) - whole).square().mean() < 0.7 * (sums(blind) - whole).square().mean()


def _found(model, images, with_skip):
    places, stay = find_places(model, images)
    places = [place for place in places if place.layer == "narrow"]
    if not with_skip:
        places[0].skip = None
    return places, stay


def sums(model):
    """Return what the residual block gives."""
    seen = []
    handle = model.classify.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    logits(model)
    handle.remove()
    return torch.cat(seen)


class Blocks(nn.Module):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()) for _ in range(3))
        self.narrow = nn.ModuleList(nn.Conv2d(16, 8, 1) for _ in range(3))
        self.classify = nn.Linear(8, 5)
        self.dropped = set()
        self.eval()

    def forward(self, pixel_values):
        x = self.stem(pixel_values)
        for number, (wide, narrow) in enumerate(zip(self.blocks, self.narrow, strict=True)):
            x = x if number in self.dropped else x + narrow(wide(x))
        return {"logits": self.classify(x.mean((2, 3)))}


def test_a_block_makes_up_for_one_that_was_dropped_before_it():
    model = Blocks()
    smaller = copy.deepcopy(model)
    smaller.dropped = {1}
    smaller.classify = nn.Identity()  # so that it is no layer, and is not repaired
    lost = (sums(model) - logits(smaller)).square().mean()
    least_squares(model, smaller, {}, photos())
    assert (sums(model) - logits(smaller)).square().mean() < 0.3 * lost


def test_images_are_taken_until_a_layer_has_enough_samples(monkeypatch):
    monkeypatch.setattr(repairing, "SAMPLES", 6 * 8 * 8 + 1)
    model, taken = Net(), []
    smaller, kept = pruned(model, [0, 1, 2, 3])
    monkeypatch.setattr(repairing, "find_places", lambda *arguments: (find_places(*arguments)[0][:3], {}))

    def batches():
        for images in photos(20):
            taken.append(images)
            yield images

    least_squares(model, smaller, kept, batches())
    assert len(taken) == 2
    monkeypatch.setattr(repairing, "find_places", find_places)
    least_squares(model, smaller, kept, batches())
    assert len(taken) == 2 + 20  # of the classifier's input, an image is one sample


def test_layers_with_too_many_inputs_stay_as_they_are(monkeypatch):
    model = Net()
    smaller, kept = pruned(model, [0, 1], "stem")
    monkeypatch.setattr(repairing, "MOST_INPUTS", 9 * 6 - 1)
    stay = least_squares(model, smaller, kept, photos())
    assert stay == {"wide": "it has more than 53 inputs"}
    assert torch.equal(smaller.wide.weight, model.wide.weight[:, torch.from_numpy(kept["wide", "weight", 1])])
