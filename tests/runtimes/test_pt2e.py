"""int8 programs for ExecuTorch: what is computed as one is rounded once."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_compress.runtimes import Exportable, runtime


@pytest.fixture
def pt2e():
    pytest.importorskip(runtime("executorch").package)
    from hf_compress.runtimes.int8 import pt2e

    return pt2e


class Bounded(nn.Module):
    """Cuts off most of what a layer gives."""

    def __init__(self, cut):
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.last, self.cut = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), cut
        self.layer.weight.data *= 300

    def forward(self, pixel_values):
        return self.last(self.cut(self.layer(pixel_values))).flatten(1)


def error(model, images, file):
    runtime("executorch").write(Exportable(model, ["x"], images[0], {}, images), file)
    call = runtime("executorch").load(file, 1)
    with torch.no_grad():
        apart = [torch.tensor(call(image.numpy())[0]) - model(image) for image in images]
        said = torch.cat([model(image) for image in images])
    return (torch.cat(apart).square().mean() / said.var()).item()


@pytest.mark.long
@pytest.mark.parametrize("cut", [nn.ReLU6(), nn.Hardtanh()])
def test_a_bounded_activation_is_computed_with_the_layer_before(cut, pt2e, tmp_path, monkeypatch):
    model = Bounded(cut).eval()
    images = [torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(place)) for place in range(16)]
    fused = error(model, images, tmp_path / "fused.pte")
    monkeypatch.setattr(pt2e, "fused", lambda observed: observed)
    assert fused < 0.3 * error(model, images, tmp_path / "apart.pte")


class Computed(nn.Module):
    """Computes the bias of a layer, as BEiT does."""

    def __init__(self):
        super().__init__()
        self.weight, self.part = nn.Parameter(torch.randn(6, 192)), nn.Parameter(torch.randn(3))

    def forward(self, pixel_values):
        return F.linear(pixel_values.flatten(1), self.weight, torch.cat([self.part, torch.zeros(3)]))


def test_a_bias_that_is_computed_stays(pt2e):
    model, images = Computed().eval(), [torch.rand(1, 3, 8, 8) for _ in range(8)]
    program = pt2e.quantized_program(Exportable(model, ["x"], images[0], {}, images))
    assert torch.allclose(program.module()(images[0]), model(images[0]), atol=0.5)
