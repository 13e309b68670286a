"""What lies in a picture goes where the picture goes: through an augmentation, and through an image processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL.Image import Resampling
from torch import Tensor
from torchvision import tv_tensors


def moved(augment: Callable[..., Any], picture: Tensor, parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the view that an augmentation makes of a picture (3, height, width), and the parts as they lie in it.

    Args:
        augment: of torchvision's transforms v2, which move `tv_tensors` alike and leave other tensors as they are.
    """
    view, parts = augment(tv_tensors.Image(picture), parts)
    return view.as_subclass(Tensor), parts


def as_shown(processor: Any, maps: list[Tensor]) -> Tensor:
    """Return maps of numbers as a processor resizes, crops and pads pictures: the nearest number, 0 beside them.

    Args:
        maps: uint8, each of shape (height, width).

    Returns:
        uint8 of shape (maps, height, width), the size of the model's input.
    """
    pictures = [numbers.as_subclass(Tensor).expand(3, -1, -1) for numbers in maps]
    shown = processor(pictures, resample=Resampling.NEAREST, do_rescale=False, do_normalize=False, return_tensors="pt")
    return shown["pixel_values"][:, 0].round().to(torch.uint8)
