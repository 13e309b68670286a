"""A detector's queries, which may come in another order. Torch is not imported for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T", "Tensor", np.ndarray)
BOXES = "pred_boxes"


def in_like_order(expected: Mapping[str, T], found: Mapping[str, T]) -> Mapping[str, T]:
    """Return what a file says, a detector's queries in the order in which they differ least from the expected ones.

    Detectors that select their queries (RT-DETR, D-FINE, DEIM) give two that score alike in either order.

    Args:
        expected, found: outputs by name, tensors on the CPU or arrays, (images, queries, numbers) of a detector.
    """
    if BOXES not in expected:
        return found
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    orders = []
    for image in range(len(expected[BOXES])):
        cost: Any = 0.0
        for name, values in expected.items():
            true, said = np.asarray(values[image], float), np.asarray(found[name][image], float)
            cost = cost + cdist(true, said, "sqeuclidean") / max(true.var() * true.shape[1], 1e-12)
        alike = np.fmin(cost, 1.0)  # a query that has no like takes that of no other
        orders.append(linear_sum_assignment(alike)[1])
    images, order = np.arange(len(orders))[:, None], np.stack(orders)
    return {name: found[name][images, order] for name in expected}
