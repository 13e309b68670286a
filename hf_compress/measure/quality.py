"""How well a model classifies."""

from __future__ import annotations

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
    result = accuracy(logits, labels)
    counted = labels >= 0
    labels = labels[counted].numpy()
    scores = logits[counted].double().softmax(dim=-1).T.contiguous().numpy()
    if not np.isfinite(scores).all():
        return result
    areas = [_area(column, labels == c) for c, column in enumerate(scores) if 0 < (labels == c).sum() < len(labels)]
    return result | ({"roc_auc": float(np.mean(areas))} if areas else {})


def accuracy(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return `accuracy` alone, which costs nothing beside `roc_auc`; see `quality`."""
    right = answered_right(logits, labels)
    return {"accuracy": float(right.double().mean())} if len(right) else {}


def answered_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Return whether the most probable class is the true one, a boolean for each labelled image."""
    counted = labels >= 0
    return logits[counted].argmax(dim=1) == labels[counted]


def _area(scores: np.ndarray, own: np.ndarray) -> float:
    """Return the area under the ROC curve: the share of pairs of an own and another image that are in order.

    By ranks, of which equal scores share the mean (Mann and Whitney, 1947); Hanley and McNeil, "The meaning and use of
    the area under a receiver operating characteristic (ROC) curve", 1982.
    """
    ordered, found = np.sort(scores), scores[own]
    ranks = (np.searchsorted(ordered, found, "left") + np.searchsorted(ordered, found, "right") + 1) / 2
    n = len(found)
    return (ranks.sum() - n * (n + 1) / 2) / (n * (len(scores) - n))
