"""Layers as products with their weight, and the weights that are solved from moments of samples."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_compress.steps.pruning.repair import moments as solving
from hf_compress.steps.pruning.repair.linear import as_matrix, columns, rows, set_matrix
from hf_compress.steps.pruning.repair.moments import Moments

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
@pytest.mark.parametrize(("masked", "at_a_time"), [(True, 2**24), (True, 1), (False, 1)])
def test_moments_give_the_least_squares_over_what_is_free(monkeypatch, with_bias, masked, at_a_time):
    """However samples come, and however many rows are solved at a time."""
    monkeypatch.setattr(solving, "RIDGE", 1e-10)
    monkeypatch.setattr(solving, "AT_A_TIME", at_a_time)
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
