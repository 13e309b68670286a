"""Each kind of rewrite against what it should compute, on convolutions of any geometry."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.activations import ACT2FN

from hf_compress.checkpoint.rewrites import Rewritten
from hf_compress.steps.rewriting.activations import is_activation, piecewise_linear
from hf_compress.steps.rewriting.base import Unsuitable
from hf_compress.steps.rewriting.convolutions import factorized, rank_for_energy, separable, separated
from hf_compress.steps.rewriting.strided_pool import strided_pool

FAST = settings(max_examples=25, deadline=None)


@st.composite
def convolutions(draw):
    """A convolution of any geometry that fits an image of 15 x 17."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    pair = st.tuples(st.integers(1, 2), st.integers(1, 2))
    stride = draw(pair)
    padding = draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    return nn.Conv2d(
        draw(st.integers(1, 4)),
        draw(st.integers(1, 5)),
        draw(st.tuples(st.sampled_from([3, 5, 7]), st.sampled_from([3, 5, 7]))),
        stride=stride,
        padding="same" if stride == (1, 1) and draw(st.booleans()) else padding,
        dilation=draw(pair),
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"])),
    )


def images(convolution):
    return torch.randn(2, convolution.in_channels, 15, 17)


def assert_same(convolution, layers):
    new = Rewritten("a kind", layers)
    image = images(convolution)
    torch.testing.assert_close(new(image), convolution(image), rtol=1e-4, atol=1e-5)
    assert new.stride == convolution.stride and new.dilation == convolution.dilation
    assert new.kernel_size == convolution.kernel_size


@FAST
@given(convolutions())
def test_a_separable_convolution_is_separated_exactly(convolution):
    out, inside, *kernel = convolution.weight.shape
    convolution.weight.data = torch.randn(out, inside, 1, 1) * torch.randn(1, inside, *kernel)
    assert_same(convolution, separable(convolution))


@FAST
@given(convolutions())
def test_with_every_rank_any_convolution_is_separated_exactly(convolution):
    assert_same(convolution, separable(convolution, rank=49))


@FAST
@given(convolutions())
def test_with_all_energy_any_convolution_is_factorized_exactly(convolution):
    assert_same(convolution, factorized(convolution, energy=1.0))


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_separation_leaves_the_smallest_error_of_its_rank(rank):
    """The error of the nearest matrix of a rank is what numpy's remaining singular values say, channel by channel."""
    weight = torch.randn(6, 4, 3, 3)
    depthwise, pointwise = separated(weight, rank)
    assert depthwise.shape == (4 * rank, 1, 3, 3) and pointwise.shape == (6, 4 * rank, 1, 1)
    terms = torch.einsum("oir,iryx->oiyx", pointwise.reshape(6, 4, rank), depthwise.reshape(4, rank, 3, 3))
    for channel in range(4):
        values = np.linalg.svd(weight[:, channel].reshape(6, 9).numpy(), compute_uv=False)
        error = (weight - terms)[:, channel].square().sum().item()
        assert error == pytest.approx((values[rank:] ** 2).sum(), abs=1e-4)


@pytest.mark.parametrize("energy", [0.3, 0.7, 0.9, 0.99])
def test_the_rank_of_a_factorization_is_the_smallest_that_keeps_the_energy(energy):
    convolution = nn.Conv2d(5, 7, 3, padding=1, bias=False)
    weight = convolution.weight.detach()
    values = np.linalg.svd(weight.permute(1, 2, 0, 3).reshape(15, 21).numpy(), compute_uv=False) ** 2
    vertical, horizontal = factorized(convolution, energy)
    rank = vertical.out_channels
    assert values[:rank].sum() >= energy * values.sum() > values[: rank - 1].sum()
    product = torch.einsum("orx,riy->oiyx", horizontal.weight[:, :, 0], vertical.weight[:, :, :, 0])
    assert (weight - product).square().sum().item() == pytest.approx(values[rank:].sum(), rel=1e-3)


def test_a_rank_for_hand_made_values():
    values = torch.tensor([3.0, 2.0, 1.0, 0.0])  # squares 9, 4, 1, 0
    energies = (0.1, 9 / 14, 0.65, 13 / 14, 0.95, 1.0)
    assert [rank_for_energy(values, energy) for energy in energies] == [1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("convolution", "reason"),
    [
        (nn.Conv2d(4, 4, 3, groups=4), "depthwise already"),
        (nn.Conv2d(4, 4, 3, groups=2), "has 2 groups"),
        (type("Special", (nn.Conv2d,), {})(4, 4, 3), "is a Special"),
        (nn.Conv2d(4, 4, 1), "1x1 kernel"),
    ],
)
def test_convolutions_that_stay(convolution, reason):
    for rewrite in (separable, lambda each: factorized(each, 0.9)):
        with pytest.raises(Unsuitable, match=reason):
            rewrite(convolution)


POOLS = st.fixed_dictionaries({"kernel_size": st.sampled_from([2, 3, (2, 3)]), "ceil_mode": st.booleans()})


@FAST
@given(POOLS, st.integers(0, 1), st.booleans(), st.integers(8, 13), st.integers(8, 13))
def test_average_pooling_is_imitated_exactly_in_the_interior(options, padding, counted, height, width):
    pool = nn.AvgPool2d(**options, stride=2, padding=padding, count_include_pad=counted)
    image = torch.randn(2, 3, height, width)
    try:
        new = nn.Sequential(*strided_pool(pool, lambda: [(image, pool(image))]))
    except Unsuitable as reason:
        assert "drops its last window" in str(reason)
        return
    made, wanted = new(image), pool(image)
    assert made.shape == wanted.shape
    torch.testing.assert_close(made[:, :, 1:-1, 1:-1], wanted[:, :, 1:-1, 1:-1])
    if counted and not options["ceil_mode"]:
        torch.testing.assert_close(made, wanted)


@FAST
@given(POOLS, st.integers(0, 1), st.integers(6, 11), st.integers(6, 11))
def test_the_imitation_of_max_pooling_has_its_size_and_the_least_squared_error(options, padding, height, width):
    pool = nn.MaxPool2d(**options, stride=2, padding=padding)
    image = torch.rand(6, 2, height, width)
    try:
        layers = strided_pool(pool, lambda: [(image[:4], pool(image[:4])), (image[4:], pool(image[4:]))])
    except Unsuitable as reason:
        assert "drops its last window" in str(reason)
        return
    made, wanted = nn.Sequential(*layers)(image), pool(image)
    assert made.shape == wanted.shape
    residual = (made - wanted).detach()
    margins = layers[0].padding if len(layers) == 2 else [p for p in layers[0].padding[::-1] for _ in range(2)]
    padded = nn.functional.pad(image, list(margins))
    for channel in range(2):  # numpy solves the same problem from the windows themselves
        windows = padded[:, channel].unfold(1, 3, 2).unfold(2, 3, 2).reshape(-1, 9)
        windows = np.hstack([windows.numpy(), np.ones((len(windows), 1))])
        best = np.linalg.lstsq(windows, wanted[:, channel].flatten().numpy(), rcond=None)[0]
        least = (windows @ best - wanted[:, channel].flatten().numpy()) ** 2
        assert residual[:, channel].square().sum().item() == pytest.approx(least.sum(), rel=1e-2, abs=1e-4)


@pytest.mark.parametrize(
    ("pool", "reason"),
    [
        (nn.MaxPool2d(3, stride=1), "stride 1"),
        (nn.MaxPool2d(5, stride=2), "does not cover"),
        (nn.MaxPool2d(2, dilation=2), "does not cover"),
        (nn.MaxPool2d(2, return_indices=True), "indices"),
    ],
)
def test_pooling_that_stays(pool, reason):
    with pytest.raises(Unsuitable, match=reason):
        strided_pool(pool, list)


RECTIFIERS = [nn.LeakyReLU(0.2), nn.ELU(), nn.SiLU(), nn.GELU(), nn.Hardswish(), nn.ReLU6()]
RECTIFIERS += [ACT2FN[name] for name in ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "silu", "mish")]


@pytest.mark.parametrize("module", RECTIFIERS, ids=lambda module: type(module).__name__)
def test_rectifiers_become_relu(module):
    assert is_activation(module)
    assert type(piecewise_linear(module, "relu")) is nn.ReLU
    if not isinstance(module, nn.ReLU6):
        assert type(piecewise_linear(module, "relu6")) is nn.ReLU6


def test_a_sigmoid_stays_between_0_and_1():
    line = torch.linspace(-9, 9, 99)
    new = piecewise_linear(nn.Sigmoid(), "relu")(line)
    torch.testing.assert_close(new, ((line + 3) / 6).clamp(0, 1))
    assert (new - line.sigmoid()).abs().max() < 0.08


@pytest.mark.parametrize("module", [nn.ReLU(), nn.Tanh(), nn.Softsign(), ACT2FN["relu2"]])
def test_activations_that_stay(module):
    assert is_activation(module)
    with pytest.raises(Unsuitable, match=r"already|no ReLU imitates"):
        piecewise_linear(module, "relu")


@pytest.mark.parametrize(
    "module", [nn.Identity(), nn.Dropout().eval(), nn.Softmax(-1), nn.PReLU(), nn.LayerNorm(4), nn.MaxPool2d(2)]
)
def test_other_modules_are_no_activations(module):
    assert not is_activation(module)
