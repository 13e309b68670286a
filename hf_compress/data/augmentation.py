"""Augmentations by name. Each maps one uint8 picture (3, height, width) to one, the view that all models see."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F


class RandomShift(v2.Transform):
    """Shifts a picture of any size, and what lies in it, by up to an eighth, filling with its mirror image."""

    def make_params(self, flat_inputs):
        offsets = {}
        for axis, size in zip((-2, -1), F.get_size(flat_inputs[0]), strict=True):
            most = min(max(1, size // 8), size - 1)
            offsets[axis] = int(torch.randint(-most, most + 1, ()))
        return offsets

    def transform(self, inpt, params):
        if isinstance(inpt, tv_tensors.BoundingBoxes):
            return F.affine(inpt, 0, [-params[-1], -params[-2]], 1, [0, 0])
        shown = inpt.as_subclass(Tensor)
        for axis, offset in params.items():
            size = shown.shape[axis]
            positions = (torch.arange(size) + offset).abs()
            shown = shown.index_select(axis, torch.minimum(positions, 2 * (size - 1) - positions))
        return tv_tensors.wrap(shown, like=inpt)


def build_augmentation(name: str, size: tuple[int, int]) -> Callable[..., Any] | None:
    """Return `none`, `light` (shift and mirror) or `standard` (random crop, mirror and colour) augmentation.

    `size` is that of `standard`'s views, (height, width) in pixels: the largest input size of the models.
    """
    if name == "none":
        return None
    if name == "light":
        return v2.Compose([RandomShift(), v2.RandomHorizontalFlip()])
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.35, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2),
        ]
    )
