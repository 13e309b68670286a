"""Pictures are to the bit what image processors of transformers make of them, without torch and transformers."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F
from transformers import BitImageProcessor, ConvNextImageProcessor, MobileNetV2ImageProcessor, ViTImageProcessor

from hf_compress.device.pictures import cropped, preprocessed, resized, resized_shape
from hf_compress.run.scripts import is_portable


@pytest.mark.parametrize(("resample", "mode"), [(2, InterpolationMode.BILINEAR), (3, InterpolationMode.BICUBIC)])
@pytest.mark.parametrize("shapes", [((90, 120), (64, 64)), ((16, 20), (50, 40)), ((100, 33), (100, 1))])
def test_resizing_is_torchs_to_the_bit(resample, mode, shapes):
    (height, width), size = shapes
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    asked = F.resize(torch.from_numpy(picture).permute(2, 0, 1), list(size), interpolation=mode, antialias=True)
    assert np.array_equal(resized(picture, *size, resample).transpose(2, 0, 1), asked.numpy())


def test_a_hand_computed_resize():
    picture = np.array([[[0], [100], [200], [40]]], np.uint8)
    # halving with a triangle two pixels wide each way: weights 3/7, 3/7, 1/7 at the borders
    assert resized(picture, 1, 2, 2).ravel().tolist() == [71, 117]


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessor(size={"height": 32, "width": 40}),
        ViTImageProcessor(size={"height": 32, "width": 32}, do_normalize=False),
        ViTImageProcessor(do_resize=True, do_rescale=False, size={"height": 32, "width": 32}),
        BitImageProcessor(size={"shortest_edge": 50}, crop_size={"height": 48, "width": 44}),
        MobileNetV2ImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 48, "width": 33}),
    ],
    ids=["vit", "unnormalised", "not rescaled", "bit", "mobilenet, padded"],
)
def test_whole_processors_are_matched_to_the_bit(processor):
    assert is_portable(processor)


@pytest.mark.parametrize(
    "processor",
    [
        ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.875),
        ViTImageProcessor(size={"height": 32, "width": 32}, resample=0),
    ],
    ids=["crops by a share", "nearest"],
)
def test_what_is_not_matched_is_known(processor):
    assert not is_portable(processor)


def test_shapes_and_crops():
    assert resized_shape((30, 41, 3), {"shortest_edge": 20}) == (20, 27)
    assert resized_shape((41, 30, 3), {"shortest_edge": 20}) == (27, 20)
    assert resized_shape((41, 30, 3), {"height": 5, "width": 7}) == (5, 7)
    picture = np.arange(1, 10, dtype=np.uint8).reshape(3, 3, 1)
    assert cropped(picture, 1, 1).ravel().tolist() == [5]
    assert cropped(picture, 1, 6)[0, :, 0].tolist() == [0, 4, 5, 6, 0, 0]


def test_a_pixel_by_hand():
    settings = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    settings |= {"image_mean": [0.5, 0.0, 0.0], "image_std": [0.5, 1.0, 0.5]}
    pixels = preprocessed(np.array([[[255, 51, 0]]], np.uint8), settings)
    assert pixels.shape == (1, 3, 1, 1)
    assert pixels.ravel().tolist() == pytest.approx([1.0, 0.2, 0.0])
