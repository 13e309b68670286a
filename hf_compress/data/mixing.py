"""Mixed pictures: a training picture is shown with a part of another one, and has that one's label, too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

MIXING = 1  # its random numbers are others than those of the augmentation


@dataclass(frozen=True)
class Mixing:
    """Mixes an item with a partner, before any model's processor: all models see the same mix.

    Attributes:
        mixup: alpha of the Beta distribution of the item's share in each pixel; 0: never (Zhang et al., 2018, sec. 2).
        cutmix: the same for its share of the area; the rest is a box of the partner (Yun et al., 2019, sec. 3.1). With
            both, each item takes one or the other with equal chance.
    """

    mixup: float = 0.0
    cutmix: float = 0.0

    def mixed(self, item: dict[str, Any], partner: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
        """Return the item with a part of its partner.

        Args:
            item, partner: `view`, a uint8 picture (3, height, width), and `label`. The partner takes the item's size.

        Returns:
            `view`, `label`, `partner_label`, and `share`: how much of the view is the item's own, from 0 to 1.
        """
        own, other = item["view"], partner["view"]
        if other.shape != own.shape:
            other = F.resize(other, list(own.shape[-2:]), antialias=True)
        cuts = self.cutmix > 0 and (self.mixup == 0 or random.random() < 0.5)
        alpha = self.cutmix if cuts else self.mixup
        share = random.beta(alpha, alpha)
        if cuts:
            view, (rows, columns) = own.clone(), _box(own, 1 - share, random)
            view[:, rows, columns] = other[:, rows, columns]
            share = 1 - view[0, rows, columns].numel() / view[0].numel()
        else:
            view = torch.lerp(other.float(), own.float(), share).round().to(torch.uint8)
        return item | {"view": view, "partner_label": partner["label"], "share": share}


def random_of(*numbers: int) -> np.random.Generator:
    """Return the random numbers of a mix, which depend on these numbers alone."""
    return np.random.default_rng([*numbers, MIXING])


def partner_of(index: int, count: int, random: np.random.Generator) -> int:
    """Return one of the `count` items at random, but not the item itself, unless there is no other."""
    return (index + int(random.integers(1, max(count, 2)))) % count


def _box(picture: Tensor, area: float, random: np.random.Generator) -> tuple[slice, slice]:
    """Return the rows and columns of a box anywhere in a picture: this share of its area, cut off at its edges."""
    sides = []
    for size in picture.shape[-2:]:
        length = int(size * math.sqrt(area))
        start = int(random.integers(size)) - length // 2
        sides.append(slice(max(start, 0), min(start + length, size)))
    return sides[0], sides[1]
