"""Where a model errs: class by class, and how far its confidence can be believed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

CONFUSIONS = 1000
BINS = 15


def by_class(logits: Tensor, labels: Tensor) -> dict[str, list]:
    """Count the answers of a model by class.

    Args:
        logits: shape (images, classes).
        labels: shape (images,); images with a negative label do not count.

    Returns:
        `images` and `correct`: one count a class, in the order of the logits, so that correct / images is the class's
        recall; `confused`: `[true class, predicted class, images]` for the wrong answers, the most frequent first, at
        most 1000.
    """
    from sklearn.metrics import confusion_matrix

    counted = labels >= 0
    matrix = confusion_matrix(
        labels[counted].numpy(), logits[counted].argmax(dim=1).numpy(), labels=range(logits.shape[1])
    )
    wrong = matrix - np.diag(matrix.diagonal())
    pairs = sorted(zip(*wrong.nonzero(), strict=True), key=lambda pair: -wrong[pair])[:CONFUSIONS]
    return {
        "images": matrix.sum(axis=1).tolist(),
        "correct": matrix.diagonal().tolist(),
        "confused": [[int(true), int(predicted), int(wrong[true, predicted])] for true, predicted in pairs],
    }


def reliability(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Compare confidence with accuracy.

    Args:
        logits: shape (images, classes).
        labels: shape (images,); images with a negative label do not count.

    Returns:
        `expected_calibration_error` of the most probable class with 15 bins of equal width (Guo et al., 2017, eq. 3),
        and `bins`: `[mean confidence, accuracy, images]` of every bin that holds images.
    """
    counted = labels >= 0
    confidence, predicted = (part.numpy() for part in logits[counted].double().softmax(dim=-1).max(dim=-1))
    right = predicted == labels[counted].numpy()
    bin_of = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    members = [bin_of == number for number in np.unique(bin_of)]
    bins = [[float(confidence[m].mean()), float(right[m].mean()), int(m.sum())] for m in members]
    gap = sum(images * abs(accuracy - mean) for mean, accuracy, images in bins) / len(right)
    return {
        "expected_calibration_error": gap,
        "bins": [[round(mean, 4), round(accuracy, 4), images] for mean, accuracy, images in bins],
    }
