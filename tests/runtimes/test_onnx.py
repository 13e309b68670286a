"""What torch's exporter does not translate by itself."""

import numpy as np
import torch
from torch import nn

from hf_compress.runtimes import Exportable, runtime


class Checked(nn.Module):
    """Checks its input, as detectors of transformers do."""

    def forward(self, pixel_values):
        torch._check_tensor_all(pixel_values == pixel_values, lambda: "not a number")
        return pixel_values.mean(dim=(2, 3))


def test_a_model_that_checks_its_input_is_written(tmp_path):
    image = torch.rand(1, 3, 4, 4)
    runtime("onnx").write(Exportable(Checked().eval(), ["means"], image), tmp_path / "model.onnx")
    (found,) = runtime("onnx").load(tmp_path / "model.onnx", 1)(image.numpy())
    np.testing.assert_allclose(found, image.mean(dim=(2, 3)).numpy(), rtol=1e-5)


class Clipped(nn.Module):
    """Clips one tensor three times, each between other bounds."""

    def forward(self, pixel_values):
        mean = pixel_values.mean(dim=(2, 3))
        bounds = ((0.0, 0.4), (0.1, 0.5), (0.45, 0.6))
        parts = [torch.maximum(torch.minimum(mean, torch.tensor(most)), torch.tensor(least)) for least, most in bounds]
        return torch.stack([*parts, *(mean.clamp(min=least, max=most) for least, most in bounds)], dim=1)


def test_bounds_of_several_clips_of_one_tensor_are_kept(tmp_path):
    image, model = torch.rand(1, 3, 4, 4), Clipped().eval()
    runtime("onnx").write(Exportable(model, ["clipped"], image), tmp_path / "model.onnx")
    (found,) = runtime("onnx").load(tmp_path / "model.onnx", 1)(image.numpy())
    np.testing.assert_allclose(found, model(image).numpy(), rtol=1e-5)
