"""Biases of int8 files hold what rounded weights shift on average."""

from functools import partial
from math import inf

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_compress.device.opening import open_onnx
from hf_compress.runtimes import Exportable, runtime
from hf_compress.runtimes.int8 import biases
from hf_compress.runtimes.int8 import onnx as int8
from hf_compress.runtimes.int8.fallback import write_bearable

LAYERS = {
    "stride and padding": lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4),
    "groups": lambda: nn.Conv2d(4, 8, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 2, stride=2),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 6)),
}


class Model(nn.Module):
    """Two layers; the second reads what is far from zero on average, and large weights make the others coarse."""

    def __init__(self, layer):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.layer = layer()
        for weight in (each for each in self.layer.parameters() if each.dim() > 1):
            weight.data[torch.rand_like(weight) < 0.3] *= 10

    def forward(self, pixel_values):
        found = self.layer(self.first(pixel_values).relu() + 1)
        return found.mean(dim=(2, 3)) if found.dim() == 4 else found


def shades(count):
    """Return images of different brightness, so that the rounding of what the model gives is none on average."""
    random = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, 8, 8, generator=random) * (0.1 + 2 * place / count) for place in range(count)]


def mean_difference(model, images, file):
    """Return how far each output of the int8 file is from the model's, on average over the images."""
    runtime("onnx").write(Exportable(model, ["logits"], images[0], {}, images), file)
    call = open_onnx(file, 1)
    with torch.no_grad():
        return np.mean([call(image.numpy())[0] - model(image).numpy() for image in images], axis=(0, 1))


@pytest.mark.parametrize("layer", LAYERS)
def test_an_int8_file_is_right_on_average(layer, tmp_path, monkeypatch):
    model = Model(LAYERS[layer]).eval()
    images = shades(64)
    monkeypatch.setattr(int8, "write_bearable", partial(write_bearable, bound=inf))
    corrected = mean_difference(model, images, tmp_path / "model.onnx")
    monkeypatch.setattr(int8, "correct", lambda file, by: None)
    usual = mean_difference(model, images, tmp_path / "usual.onnx")
    assert np.abs(corrected).mean() < 0.3 * np.abs(usual).mean()


def test_the_shift_is_what_the_layer_makes_of_what_rounding_took_away(tmp_path):
    from onnx import load, numpy_helper

    model, file, kept = Model(LAYERS["stride and padding"]).eval(), tmp_path / "model.onnx", {}
    images = shades(8)

    def watched(floats, rounded, shown):
        found = biases.shifts(floats, rounded, shown)
        graph = load(rounded).graph
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        kept.update(found=list(found.values())[1], tensors=tensors)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "shifts", watched)
        mean_difference(model, images, file)
    exact, tensors = model.layer.weight.detach(), kept["tensors"]
    name = next(n for n, t in tensors.items() if t.dtype == np.int8 and t.shape == tuple(exact.shape))
    scale = torch.tensor(tensors[name.removesuffix("_quantized") + "_scale"]).view(-1, 1, 1, 1)
    taken = exact - torch.tensor(tensors[name]) * scale
    with torch.no_grad():
        by_hand = torch.cat([F.conv2d(model.first(i).relu() + 1, taken, stride=2, padding=1) for i in images]).mean(
            (0, 2, 3)
        )
    assert kept["found"] == pytest.approx(by_hand.numpy(), rel=1e-4, abs=1e-7)
    assert np.abs(kept["found"]).max() > 1e-4
