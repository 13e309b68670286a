"""How well a model classifies."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import roc_auc_score
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
    counted = labels >= 0
    if not counted.any():
        return {}
    labels = labels[counted].numpy()
    scores = logits[counted].double().softmax(dim=-1).numpy()
    result = {"accuracy": float((scores.argmax(axis=1) == labels).mean())}
    if not np.isfinite(scores).all():
        return result
    present = [c for c in range(scores.shape[1]) if 0 < (labels == c).sum() < len(labels)]
    if present:
        result["roc_auc"] = float(np.mean([roc_auc_score(labels == c, scores[:, c]) for c in present]))
    return result
