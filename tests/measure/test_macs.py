"""Multiply-accumulates against numbers counted by hand, for every attention that torch may choose."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForImageClassification, Swinv2Config, ViTConfig, ViTForImageClassification
from transformers.modeling_outputs import ImageClassifierOutput

from hf_compress.measure.cost import count_macs, counting_macs
from hf_compress.tools.inspection import inspect_layers

aten = torch.ops.aten
BATCH, HEADS, QUERIES, KEYS, KEY_WIDTH = 2, 4, 5, 7, 16
FUSED = {
    "_scaled_dot_product_flash_attention_for_cpu": (),
    "_scaled_dot_product_flash_attention": (),
    "_scaled_dot_product_efficient_attention": (None, False),
    "_scaled_dot_product_cudnn_attention": (None, False),
    "_scaled_dot_product_fused_attention_overrideable": (),
    "_scaled_dot_product_attention_math_for_mps": (),
    "_scaled_dot_product_attention_math": (),
}


def counted(call):
    with counting_macs() as counter:
        call()
    return counter.macs


def attention_macs(batch, heads, queries, keys, key_width, value_width):
    """FLOPs are 2 * batch * heads * queries * keys * (key_width + value_width), two a multiply-accumulate."""
    return batch * heads * queries * keys * (key_width + value_width)


def vit_macs(size, patch, width, depth, hidden, classes):
    patches = (size // patch) ** 2
    tokens = patches + 1
    block = 4 * tokens * width**2 + 2 * tokens * tokens * width + 2 * tokens * width * hidden
    return patches * 3 * patch**2 * width + depth * block + width * classes


def vit(size, implementation, classes=1000, **options):
    config = ViTConfig(image_size=size, num_labels=classes, attn_implementation=implementation, **options)
    return ViTForImageClassification(config)


def tensors(kv_heads, device):
    return (
        torch.zeros(BATCH, HEADS, QUERIES, KEY_WIDTH, device=device),
        torch.zeros(BATCH, kv_heads, KEYS, KEY_WIDTH, device=device),
        torch.zeros(BATCH, kv_heads, KEYS, KEY_WIDTH, device=device),
    )


@pytest.mark.parametrize("kv_heads", [HEADS, 2])
@pytest.mark.parametrize("operator", FUSED)
def test_every_attention_operator_has_a_formula(operator, kv_heads):
    """On torch's meta device, where the operators of every device can be called."""
    if kv_heads < HEADS and operator == "_scaled_dot_product_attention_math":
        pytest.skip("takes groups of heads by an argument: see the next test")
    inputs = tensors(kv_heads, "meta")
    macs = counted(lambda: getattr(aten, operator)(*inputs, *FUSED[operator]))
    assert macs == attention_macs(BATCH, HEADS, QUERIES, KEYS, KEY_WIDTH, KEY_WIDTH)


@pytest.mark.parametrize("device", ["cpu", "meta", "cuda"])
@pytest.mark.parametrize("kv_heads", [HEADS, 2])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("backend", [*SDPBackend.__members__.values()], ids=lambda backend: backend.name)
def test_every_backend_counts_alike(backend, causal, kv_heads, device):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    inputs = [tensor.bfloat16() for tensor in tensors(kv_heads, device)]
    run = partial(F.scaled_dot_product_attention, *inputs, is_causal=causal, enable_gqa=True)
    with sdpa_kernel(backend):
        try:
            run()
        except RuntimeError as error:
            pytest.skip(f"not here: {str(error).splitlines()[0]}")
        assert counted(run) == attention_macs(BATCH, HEADS, QUERIES, KEYS, KEY_WIDTH, KEY_WIDTH)


@pytest.mark.parametrize("size, billions", [(224, 17.56), (384, 55.48)])
def test_vit_b_16(size, billions):
    """On the meta device, as `student: auto` counts; there torch has no fused attention."""
    expected = vit_macs(size, 16, 768, 12, 3072, 1000)
    assert expected == pytest.approx(billions * 1e9, abs=0.01e9)
    with torch.device("meta"):
        assert count_macs(vit(size, "sdpa"), torch.zeros(1, 3, size, size)) == expected


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], ids=lambda backend: backend.name)
def test_a_model_counts_alike_with_each_attention_and_in_the_sum_of_its_layers(implementation, backend):
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    model = vit(32, implementation, 5, patch_size=8, **small)
    image = torch.zeros(1, 3, 32, 32)
    with sdpa_kernel(backend):
        macs = count_macs(model, image)
        rows = inspect_layers(model, image)
    assert macs == vit_macs(32, 8, 32, 2, 48, 5)
    attention = 2 * attention_macs(1, 4, 17, 17, 8, 8)  # no layer with parameters does it
    assert sum(row["macs"] for row in rows if row["kind"] in ("Linear", "Conv2d")) == macs - attention


class Mixed(nn.Module):
    """Convolutions and both kinds of attention: torch's fused layer, and its function with grouped heads."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, stride=4)
        self.fused = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
        self.query, self.key_value = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, pixel_values):
        tokens = self.fused(self.patches(pixel_values).flatten(2).mT)
        query = self.query(tokens).unflatten(2, (4, 8)).transpose(1, 2)
        key, value = self.key_value(tokens).unflatten(2, (2, 2, 8)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return ImageClassifierOutput(logits=mixed.mean(dim=2).flatten(1))


def test_a_model_with_fused_layers_and_grouped_heads():
    tokens = 16
    products = tokens * 48 * 32 + 4 * tokens * 32 * 32 + 2 * tokens * 32 * 64 + 2 * tokens * 32 * 32
    expected = products + 2 * attention_macs(1, 4, tokens, tokens, 8, 8)
    assert count_macs(Mixed().eval(), torch.zeros(1, 3, 16, 16)) == expected
    assert torch.backends.mha.get_fastpath_enabled()


def test_attention_in_windows_with_a_learnt_bias():
    options = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1], "num_heads": [2], "window_size": 4}
    model = AutoModelForImageClassification.from_config(Swinv2Config(**options))
    windows, tokens = 4, 16
    with counting_macs() as counter:
        model.eval().requires_grad_(False)(torch.zeros(1, 3, 32, 32))
    attention = [macs for name, macs in counter.by_module().items() if name.endswith("attention.self")]
    bias = 49 * (2 * 512 + 512 * 2)
    assert attention == [3 * 64 * 16 * 16 + bias + attention_macs(windows, 2, tokens, tokens, 8, 8)]


X, V = torch.zeros(2, 5, 8), torch.zeros(8)
PICTURE = torch.zeros(1, 8, 6, 6)
PRODUCTS = {
    "linear": (lambda: F.linear(X, torch.zeros(3, 8), torch.zeros(3)), 10 * 8 * 3),
    "matrix and vector": (lambda: X[0] @ V, 5 * 8),
    "batch and vector": (lambda: X @ V, 10 * 8),
    "dot": (lambda: V @ V, 8),
    "vdot": (lambda: torch.vdot(V, V), 8),
    "addmv": (lambda: torch.addmv(torch.zeros(5), X[0], V), 5 * 8),
    "addmm": (lambda: torch.addmm(torch.zeros(5, 5), X[0], X[1].T), 5 * 5 * 8),
    "baddbmm": (lambda: torch.baddbmm(torch.zeros(2, 5, 5), X, X.mT), 2 * 5 * 5 * 8),
    "addbmm": (lambda: torch.addbmm(torch.zeros(5, 5), X, X.mT), 2 * 5 * 5 * 8),
    "einsum": (lambda: torch.einsum("bij,bkj->bik", X, X), 2 * 5 * 5 * 8),
    "conv1d": (lambda: F.conv1d(PICTURE[:, :, 0], torch.zeros(4, 8, 3)), 4 * 4 * 8 * 3),
    "grouped": (lambda: F.conv2d(PICTURE, torch.zeros(8, 2, 3, 3), padding=1, groups=4), 36 * 9 * 2 * 8),
    "depthwise": (lambda: F.conv2d(PICTURE, torch.zeros(8, 1, 3, 3), padding="same", groups=8), 36 * 9 * 8),
    "transposed": (lambda: F.conv_transpose2d(PICTURE, torch.zeros(8, 4, 2, 2), stride=2), 36 * 4 * 8 * 4),
    "conv3d": (lambda: F.conv3d(PICTURE[None], torch.zeros(2, 1, 3, 3, 3)), 6 * 4 * 4 * 27 * 2),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()(X),
        10 * (4 * 8 * 8 + 2 * 8 * 16) + attention_macs(2, 2, 5, 5, 4, 4),
    ),
    "multi-head attention": (
        lambda: nn.MultiheadAttention(8, 2, batch_first=True).eval()(X, X, X, need_weights=False),
        10 * 4 * 8 * 8 + attention_macs(2, 2, 5, 5, 4, 4),
    ),
    "lstm": (lambda: nn.LSTM(8, 4, batch_first=True, bidirectional=True)(X), 2 * 10 * 16 * (8 + 4)),
    "gru": (lambda: nn.GRU(8, 4, batch_first=True)(X), 10 * 12 * (8 + 4)),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", PRODUCTS)
def test_no_product_escapes(name, inference):
    call, macs = PRODUCTS[name]
    with torch.inference_mode(inference):
        assert counted(call) == macs
