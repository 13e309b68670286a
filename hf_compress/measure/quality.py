"""How well a model classifies."""

from typing import Any

import numpy as np
from torch import Tensor


def quality(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return `accuracy`, and `roc_auc` where it is defined.

    Args:
        logits: shape (images, classes).
        labels: shape (images,); images with a negative label do not count.

    Returns:
        Top-1 accuracy, and macro-averaged one-vs-rest ROC AUC of the softmax outputs (as the founding article). A
        class without images, or without other images beside it, has no ROC curve and does not enter the average. With
        two classes this equals the binary ROC AUC. Empty without labelled images.
    """
    return with_means(quality_by_image(logits, labels))["quality"]


def quality_by_image(logits: Tensor, labels: Tensor) -> dict[str, np.ndarray]:
    """Return for each metric of `quality` one number a labelled image; their mean is the metric."""
    right = answered_right(logits, labels).numpy().astype(int)
    counted = labels >= 0
    labels = labels[counted].numpy()
    scores = logits[counted].double().softmax(dim=-1).T.contiguous().numpy()
    result = {"accuracy": right} if len(right) else {}
    if not np.isfinite(scores).all():
        return result
    areas = [_areas(column, labels == c) for c, column in enumerate(scores) if 0 < (labels == c).sum() < len(labels)]
    return result | ({"roc_auc": np.mean(areas, axis=0)} if areas else {})


def with_means(by_image: dict[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """Return what the row of a report is made from: `quality`, the mean of each metric, and the numbers `by_image`."""
    return {
        "quality": {metric: float(values.mean()) for metric, values in by_image.items()},
        "by_image": {metric: values.tolist() for metric, values in by_image.items()},
    }


def accuracy(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return `accuracy` alone, which costs nothing beside `roc_auc`; see `quality`."""
    right = answered_right(logits, labels)
    return {"accuracy": float(right.double().mean())} if len(right) else {}


def answered_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether the most probable class is the true one, a boolean for each labelled image."""
    counted = labels >= 0
    return logits[counted].argmax(dim=1) == labels[counted]


def _areas(scores: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return for each image what it contributes to the area under the ROC curve, which is the mean.

    An own image's placement is the share of the others that score less, another image's the share of the own ones that
    score more; equal scores count half. The area is the mean placement of either kind. A contribution is the area plus
    the image's influence on it: its placement's distance to the area, by the share of its kind. So the variance of the
    mean is that of DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver
    operating characteristic curves", 1988.
    """
    found, others = np.sort(scores[own]), np.sort(scores[~own])
    placements = np.where(own, _share_below(scores, others), 1 - _share_below(scores, found))
    area = placements[own].mean()
    return area + (placements - area) * len(scores) / np.where(own, len(found), len(others))


def _share_below(scores: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Return which share of `ordered` each score exceeds; equal ones count half."""
    return (np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")) / (2 * len(ordered))
