"""int8 ONNX files of families of classifiers: norms, attention and whatever else lies between their layers."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from families import FAMILIES

from hf_compress.models.exporting import exportable
from hf_compress.runtimes import runtime
from hf_compress.runtimes.int8 import onnx as int8
from hf_compress.runtimes.int8.fallback import write_bearable

OFTEN = {"dinov2", "poolformer"}
WANTED = OFTEN | {
    "swin", "beit", "convnext", "mobilevit", "levit", "pvt", "timm mobilenetv3_small_050", "timm efficientformer_l1"
}  # fmt: skip
CASES = [family for family in FAMILIES if family.name in WANTED]


@pytest.mark.parametrize(
    "family",
    [pytest.param(family, marks=() if family.name in OFTEN else pytest.mark.long) for family in CASES],
    ids=[family.name for family in CASES],
)
def test_all_of_it_is_written_in_int8_and_as_far_from_the_model_as_is_told(family, tmp_path, monkeypatch):
    monkeypatch.setattr(int8, "write_bearable", partial(write_bearable, bound=math.inf))
    generator, side = torch.Generator().manual_seed(1), family.image_size
    images = [torch.rand(1, 3, side, side, generator=generator) for _ in range(8)]
    model = replace(exportable(family.build(), images[0]), calibration=images)
    told = runtime("onnx").write(model, tmp_path / "model.onnx")
    call = runtime("onnx").load(tmp_path / "model.onnx", 1)
    place = model.outputs.index("logits")
    asked, found = (np.concatenate([ask(image.numpy())[place] for image in images]) for ask in (model.call, call))
    assert found.shape == asked.shape and np.isfinite(found).all()
    differences = np.square(asked - asked.mean(axis=0)).mean()
    if differences > 1e-12:  # the random weights of a MobileViT say the same of all pictures
        error = np.square(found - asked).mean() / differences
        assert error <= 1.01 * told["int8_error"] + 1e-3  # that of the output that differs most
