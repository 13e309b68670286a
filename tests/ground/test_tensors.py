"""Where weights lie in memory: 2-d convolutions channels-last, all else as it was."""

import copy
from itertools import product

import pytest
import timm
import torch
from torch import nn

from hf_compress.ground.tensors import use_channels_last


@pytest.mark.parametrize("bare", [False, True], ids=["in a model", "bare"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_only_convolutions_over_two_dimensions_are_laid_out_anew(kind, dimensions, bare):
    torch.manual_seed(0)
    layer = getattr(nn, f"{kind}{dimensions}d")(4, 6, 3)
    image = torch.randn(2, 4, *[5] * dimensions)
    expected = layer(image)
    before = layer.weight.detach().clone()
    use_channels_last(layer if bare else nn.Sequential(layer, nn.Flatten()))
    assert torch.equal(layer.weight, before)
    if dimensions == 2:
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)
    else:
        assert layer.weight.is_contiguous()
    torch.testing.assert_close(layer(image), expected)


def test_tensors_that_no_convolution_reads_stay():
    model = nn.Conv2d(4, 6, 3)
    model.register_parameter("table", nn.Parameter(torch.randn(2, 3, 4, 5)))
    model.register_buffer("volume", torch.randn(2, 3, 4, 5, 6))
    use_channels_last(model)
    assert model.table.is_contiguous()
    assert model.volume.is_contiguous()


def test_shared_convolutions_stay():
    first, second = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3)
    second.weight = first.weight
    use_channels_last(nn.Sequential(first, second))
    assert first.weight.is_contiguous()


@pytest.mark.parametrize(
    ("channels", "stride", "side"),
    [*product([1, 3, 4, 7, 8, 9, 15, 16], [1, 2, (1, 3)], [8]), (8, 2, 56), (15, 2, 56), (16, 2, 56)],
)
def test_gradients_of_pointwise_convolutions_with_few_channels_are_right(channels, stride, side):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, channels, 3, padding=1), nn.Conv2d(channels, 12, 1, stride))
    expected = copy.deepcopy(model).double()
    model.to(memory_format=torch.channels_last)  # as pruning leaves it
    use_channels_last(model)
    image = torch.randn(32, 3, side, side + 1)
    model(image).square().sum().backward()
    expected(image.double()).square().sum().backward()
    for own, right in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own.grad.double(), right.grad, rtol=1e-3, atol=1e-3 * right.grad.abs().max().item())
    fast = channels >= 16 or stride == 1
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last if fast else torch.contiguous_format)


def test_a_network_with_3d_convolutions_runs_as_before():
    model = timm.create_model("lambda_resnet26t", num_classes=3).eval()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(image)
        use_channels_last(model)
        torch.testing.assert_close(model(image), expected, rtol=1e-4, atol=1e-4)
    assert model.stem.conv1.conv.weight.is_contiguous(memory_format=torch.channels_last)
