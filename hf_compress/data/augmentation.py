"""Augmentations by name. Each maps one uint8 picture (3, height, width) to one, the view that all models see."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.transforms import v2


class RandomShift(nn.Module):
    """Shifts a picture of any size by up to an eighth, filling with its mirror image."""

    def forward(self, picture: Tensor) -> Tensor:
        for axis in (-2, -1):
            size = picture.shape[axis]
            most = min(max(1, size // 8), size - 1)
            offset = int(torch.randint(-most, most + 1, ()))
            positions = (torch.arange(size) + offset).abs()
            picture = picture.index_select(axis, torch.minimum(positions, 2 * (size - 1) - positions))
        return picture


def build_augmentation(name: str, size: tuple[int, int]) -> Callable[[Tensor], Tensor] | None:
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
