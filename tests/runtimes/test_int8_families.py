"""int8 ONNX files of every family of classifiers: norms, attention and whatever else lies between their layers."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from families import FAMILIES

from hf_compress.models.exporting import exportable
from hf_compress.runtimes import runtime
from hf_compress.runtimes.int8.fallback import BOUND

OFTEN = {"vit", "dinov2", "swin", "poolformer"}
ASKED_OTHERWISE = {"dinat", "imagegpt", "pp_lcnet", "siglip2"}  # need a package, make no logits, or not of one picture
CASES = [family for family in FAMILIES if family.name not in ASKED_OTHERWISE]


@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=() if family.name in OFTEN else pytest.mark.long) for family in CASES],
    ids=[family.name for family in CASES],
)
def test_an_int8_file_answers_as_the_model_does(family, tmp_path):
    if not family.available:
        pytest.skip("the shared models are not beside this checkout")
    generator, side = torch.Generator().manual_seed(1), family.image_size
    images = [torch.rand(1, 3, side, side, generator=generator) for _ in range(16)]
    model = replace(exportable(family.build(), images[0]), calibration=images)
    told = runtime("onnx").write(model, tmp_path / "model.onnx")
    call = runtime("onnx").load(tmp_path / "model.onnx", 1)
    place = model.outputs.index("logits")
    asked, found = (np.concatenate([ask(image.numpy())[place] for image in images]) for ask in (model.call, call))
    assert told["int8_error"] <= BOUND
    differences = np.square(asked - asked.mean(axis=0)).mean()
    if differences > 1e-12:  # the random weights of an EfficientNet say the same of all pictures
        assert np.square(found - asked).mean() <= 2 * BOUND * differences
