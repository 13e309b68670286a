"""Biases of int8 files hold what rounded weights shift on average."""

from functools import partial
from math import inf

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_compress.runtimes import Exportable, runtime
from hf_compress.runtimes.int8 import biases
from hf_compress.runtimes.int8 import onnx as int8
from hf_compress.runtimes.int8.fallback import write_bearable

LAYERS = {
    "strided": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "groups": lambda: nn.Conv2d(4, 8, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 2, stride=2),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 6)),
    "twice": lambda: Twice(),
}


class Twice(nn.Module):
    """One layer that reads twice: what is shifted differs, and the bias is the same."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, read):
        return self.layer(self.layer(read).relu() + 3)


class Model(nn.Module):
    """Layers that read what is far from zero on average, and in which large weights make the others coarse."""

    def __init__(self, names):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.layers = nn.ModuleList(LAYERS[name]() for name in names)
        for weight in (each for each in self.layers.parameters() if each.dim() > 1):
            weight.data[torch.rand_like(weight) < 0.3] *= 10

    def forward(self, pixel_values):
        read = self.first(pixel_values).relu() + 1
        found = [layer(read) for layer in self.layers]
        return tuple(each.mean(dim=(2, 3)) if each.dim() == 4 else each for each in found)


def shades(count):
    """Return images of different brightness, so that the rounding of what the model gives is none on average."""
    random = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, 8, 8, generator=random) * (0.1 + 2 * place / count) for place in range(count)]


def mean_differences(model, names, images, file, into="onnx"):
    """Return how far each layer of the int8 file is from the model's, on average over the images."""
    runtime(into).write(Exportable(model, names, images[0], {}, images), file)
    call = runtime(into).load(file, 1)
    with torch.no_grad():
        apart = [[a - b.numpy() for a, b in zip(call(i.numpy()), model(i), strict=True)] for i in images]
    return {
        name: np.abs(np.mean(each, axis=(0, 1))).mean()
        for name, each in zip(names, zip(*apart, strict=True), strict=True)
    }


@pytest.mark.parametrize(("into", "correcting", "most"), [
    ("onnx", "int8.onnx.correct", 0.5),
    pytest.param("executorch", "int8.pt2e._correct", 0.8, marks=pytest.mark.long),
])  # fmt: skip
def test_an_int8_file_is_right_on_average(into, correcting, most, tmp_path, monkeypatch):
    pytest.importorskip(runtime(into).package)
    names, images = [name for name in LAYERS if (into, name) != ("executorch", "twice")], shades(64)
    model = Model(names).eval()
    monkeypatch.setattr(int8, "write_bearable", partial(write_bearable, bound=inf))
    corrected = mean_differences(model, names, images, tmp_path / "corrected", into)
    monkeypatch.setattr(f"hf_compress.runtimes.{correcting}", lambda file, by: None)
    usual = mean_differences(model, names, images, tmp_path / "usual", into)
    assert {name: corrected[name] < most * usual[name] for name in names} == dict.fromkeys(names, True)


@pytest.mark.long
def test_a_layer_that_reads_twice_has_two_biases_in_executorch(tmp_path):
    """With one for both, XNNPACK does not load the file."""
    pytest.importorskip(runtime("executorch").package)
    model, images = Model(["twice"]).eval(), shades(16)
    differences = mean_differences(model, ["twice"], images, tmp_path / "model.pte", "executorch")
    with torch.no_grad():
        size = torch.cat([model(image)[0] for image in images]).std()
    assert differences["twice"] < 0.1 * size


def test_the_shift_is_what_the_layer_makes_of_what_rounding_took_away(tmp_path):
    from onnx import load, numpy_helper

    model, file, kept = Model(["strided"]).eval(), tmp_path / "model.onnx", {}
    images = shades(8)

    def watched(floats, rounded, shown):
        found = biases.shifts(floats, rounded, shown)
        graph = load(rounded).graph
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        kept.update(found=list(found.values())[1], tensors=tensors)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "shifts", watched)
        mean_differences(model, ["strided"], images, file)
    exact, tensors = model.layers[0].weight.detach(), kept["tensors"]
    name = next(n for n, t in tensors.items() if t.dtype == np.int8 and t.shape == tuple(exact.shape))
    scale = torch.tensor(tensors[name.removesuffix("_quantized") + "_scale"]).view(-1, 1, 1, 1)
    taken = exact - torch.tensor(tensors[name]) * scale
    with torch.no_grad():
        by_hand = torch.cat([F.conv2d(model.first(i).relu() + 1, taken, stride=2, padding=1) for i in images]).mean(
            (0, 2, 3)
        )
    assert kept["found"] == pytest.approx(by_hand.numpy(), rel=1e-4, abs=1e-7)
    assert np.abs(kept["found"]).max() > 1e-4


class Tokens(nn.Module):
    """A linear layer of a transformer: a product of three dimensions, whose bias is an addition in floats."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.layer = nn.LayerNorm(3), nn.Linear(3, 6)
        self.norm.bias.data += 3
        self.layer.weight.data[:, 0] *= 30

    def forward(self, pixel_values):
        return self.layer(self.norm(pixel_values.flatten(2).mT)).mean(dim=1)


def test_a_linear_layer_of_a_transformer_is_right_on_average(tmp_path, monkeypatch):
    images, model = shades(64), Tokens().eval()
    corrected = mean_differences(model, ["logits"], images, tmp_path / "corrected")
    monkeypatch.setattr(int8, "correct", lambda file, by: None)
    usual = mean_differences(model, ["logits"], images, tmp_path / "usual")
    assert corrected["logits"] < 0.5 * usual["logits"]
