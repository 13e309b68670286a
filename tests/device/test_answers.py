"""What scripts make of a file's outputs is what transformers makes of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import DeformableDetrImageProcessor, DetrImageProcessor, RTDetrImageProcessor, YolosImageProcessor

from hf_compress.device.answers import class_of_pixels, found_objects
from hf_compress.measure.detections import detections

side = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(rows=side, columns=side, height=side, width=side, seed=st.integers(0, 99))
def test_pixels_have_the_classes_of_bilinear_logits(rows, columns, height, width, seed):
    logits = torch.randn(4, rows, columns, generator=torch.Generator().manual_seed(seed))
    asked = F.interpolate(logits[None], (height, width), mode="bilinear", align_corners=False)[0]
    first, second = asked.topk(2, dim=0).values
    sure = (first - second > 1e-5).numpy()
    found = class_of_pixels(logits.numpy(), height, width)
    assert found.shape == (height, width) and found.dtype == np.uint8
    assert np.array_equal(found[sure], asked.argmax(dim=0).numpy()[sure])


@pytest.mark.parametrize(
    ("processor", "no_object"),
    [
        (RTDetrImageProcessor, False),
        (DeformableDetrImageProcessor, False),
        (DetrImageProcessor, True),
        (YolosImageProcessor, True),
    ],
)
def test_objects_are_those_of_the_image_processor(processor, no_object):
    generator = torch.Generator().manual_seed(0)
    logits, boxes = torch.randn(3, 12, 5 + no_object, generator=generator) * 2 - 3, torch.rand(3, 12, 4)
    counts = []
    for answer, box, asked in zip(logits, boxes, detections(processor(), logits, boxes), strict=True):
        asked = asked[asked[:, 0] >= 0.4].numpy()
        found = found_objects(answer.numpy(), box.numpy(), 5)
        assert found == pytest.approx(asked, abs=1e-5)
        counts.append(len(found))
    assert min(counts) > 0
