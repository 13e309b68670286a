"""How well a model tells the class of every pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def at_pixels(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return maps of logits (images, classes, height, width) of this size, by bilinear interpolation."""
    if logits.shape[-2:] == size:
        return logits
    return F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)


def named_classes(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the most probable class of each pixel, uint8 of shape (images, *size), image by image to save memory."""
    return torch.cat([at_pixels(one[None], size).argmax(dim=1).to(torch.uint8) for one in logits])


def confusions(logits: Tensor, labels: Tensor) -> Tensor:
    """Count the pixels of every image by true and named class.

    Args:
        logits: shape (images, classes, height, width), of any height and width.
        labels: shape (images, height, width); negative ones do not count.

    Returns:
        int64 of shape (images, true classes, named classes).
    """
    classes = logits.shape[1]
    counts = []
    for own, true in zip(named_classes(logits, labels.shape[-2:]), labels, strict=True):
        counted = true >= 0
        pairs = true[counted] * classes + own[counted]
        counts.append(torch.bincount(pairs, minlength=classes**2).view(classes, classes))
    return torch.stack(counts)


def by_image_of_pixels(counts: Tensor) -> dict[str, np.ndarray]:
    """Return for each metric one number an image; their mean is the metric of all images together.

    Both are ratios of sums over all images, so the number of an image is the ratio plus the image's influence on it:
    as the ROC AUC's, see `quality.quality_by_image`, by the delta method (Efron and Tibshirani, "An Introduction to
    the Bootstrap", 1993, sec. 21.3).

    Args:
        counts: see `confusions`.

    Returns:
        `mean_iou`: the mean, over the classes that occur, of intersection over union; and
        `pixel_accuracy`, the share of pixels whose class is right. Empty where no pixel counts.
    """
    counts = counts.double().numpy()
    images, right, pixels = len(counts), np.trace(counts, axis1=1, axis2=2), counts.sum(axis=(1, 2))
    if not pixels.sum():
        return {}
    accuracy = right.sum() / pixels.sum()
    inner = np.diagonal(counts, axis1=1, axis2=2)
    union = counts.sum(axis=1) + counts.sum(axis=2) - inner
    seen = counts.sum(axis=(0, 2)) > 0
    inner, union = inner[:, seen], union[:, seen]
    overlaps = inner.sum(axis=0) / union.sum(axis=0)
    influence = images * (inner - overlaps * union) / union.sum(axis=0)
    return {
        "mean_iou": overlaps.mean() + influence.mean(axis=1),
        "pixel_accuracy": accuracy + images * (right - accuracy * pixels) / pixels.sum(),
    }


def overlap_by_class(counts: Tensor) -> list[float | None]:
    """Return intersection over union of every class; None for one that does not occur.

    Args:
        counts: see `confusions`.
    """
    total = counts.sum(dim=0).double()
    inner = total.diagonal()
    union = total.sum(dim=0) + total.sum(dim=1) - inner
    occurs = total.sum(dim=1) > 0
    return [float(own / whole) if there else None for own, whole, there in zip(inner, union, occurs, strict=True)]


def quality_of_pixels(counts: Tensor) -> dict[str, Any]:
    """Return `mean_iou` and `pixel_accuracy`; see `by_image_of_pixels`."""
    return {metric: float(values.mean()) for metric, values in by_image_of_pixels(counts).items()}
