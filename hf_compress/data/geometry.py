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


def pictures_shown(processor: Any, views: list[Tensor]) -> Tensor:
    """Return pictures as a processor resizes, crops and pads them, in their own colours.

    Args:
        views: uint8, each of shape (3, height, width).

    Returns:
        uint8 of shape (views, 3, height, width), the size of the model's input.
    """
    shown = processor(views, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    return shown.float().round().clamp(0, 255).to(torch.uint8)


def pixel_height(processor: Any, size: tuple[int, int]) -> float:
    """Return how high a pixel of the model's input is in a picture of this (height, width), where its width is 1.

    A processor that squeezes a wide picture into a square makes pixels that are less high than wide.
    """
    ramps = torch.linspace(1, 255, size[0])[:, None].expand(size), torch.linspace(1, 255, size[1]).expand(size)
    shown = as_shown(processor, [ramp.round().to(torch.uint8) for ramp in ramps]).float()
    height, width = (_step(shown[dim].amax(dim=1 - dim)) * (length - 1) for dim, length in enumerate(size))
    return height / width if height and width else 1.0


def _step(ramp: Tensor) -> float:
    """Return how much a line of numbers grows from one to the next, without the zeros beside it."""
    ramp = ramp[ramp > 0]
    return (ramp.max() - ramp.min()).item() / max(len(ramp) - 1, 1)
