"""Layers that int8 would damage too much stay in floats: as few as it takes, in all runtimes alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hf_compress.ground.progress import track
from hf_compress.ground.queries import in_like_order
from hf_compress.runtimes.base import Call

BOUND = 0.05  # of the outputs' variance
SHOWN = 32
OTHERS = "all that is no layer"


def write_bearable(
    units: Mapping[str, Sequence[str]],
    write: Callable[[list[str]], None],
    error: Callable[[], float],
    bound: float = BOUND,
) -> dict[str, Any]:
    """Write a file in int8 as far as its outputs bear it.

    Where the outputs of the whole model in int8 differ by more than `bound`, each layer is measured as the only one in
    int8, and all that is no layer (additions, activations, norms) as one more. As few as it takes are put back to
    floats, in the order of that damage.

    Args:
        units: all operations of the model; by the name of their layer, or `OTHERS`, those that become int8 or stay in
            floats together.
        write: writes the file anew, with these operations in floats.
        error: of the file as it was written last; `divergence` makes one.

    Returns:
        What the report tells: `int8_error`, the error that is left, and `float_layers`.
    """

    def tried(in_floats: Sequence[str]) -> float:
        write([operation for name in in_floats for operation in units[name]])
        return error()

    found = tried([])
    if found <= bound:
        return {"int8_error": found, "float_layers": []}
    damage = {
        name: tried([other for other in units if other != name])
        for name in track(list(units), "Measuring what int8 does to each layer")
    }
    order = sorted(units, key=damage.__getitem__, reverse=True)
    too_few, enough = 0, len(order)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if tried(order[:middle]) <= bound else (middle, enough)
    return {"int8_error": tried(order[:enough]), "float_layers": order[:enough]}


def divergence(
    names: Sequence[str], floats: Call, load: Callable[[], Call], images: Sequence[np.ndarray]
) -> Callable[[], float]:
    """Return what measures how far the outputs `names` of a file, which `load` opens, are from those in floats.

    It is the mean squared difference of the output that differs most, in shares of its variance, over at most 32 of
    the images, spread evenly; infinite where a number is not finite. A detector's queries may come in another order.
    """
    images = images[:: -(-len(images) // SHOWN)]

    def answers(call: Call) -> dict[str, np.ndarray]:
        outputs = zip(*map(call, images), strict=True)
        return {name: np.concatenate(parts).astype(float) for name, parts in zip(names, outputs, strict=True)}

    asked = answers(floats)

    def error() -> float:
        found = in_like_order(asked, answers(load()))
        worst = 0.0
        for name, true in asked.items():
            if not np.isfinite(found[name]).all():
                return float("inf")
            spread = np.square(true - (true.mean(axis=0) if len(true) > 1 else 0)).mean()
            worst = max(worst, float(np.square(found[name] - true).mean() / max(spread, np.finfo(float).tiny)))
        return worst

    return error
