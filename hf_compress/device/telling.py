"""What models say of a picture, by the Hub's name of their task: as JSON has it, and compared with each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_compress.device.answers import (
    CLASSIFIES,
    DETECTS,
    SEES_DEPTH,
    SEGMENTS,
    class_of_pixels,
    class_shares,
    depth_of_pixels,
    found_objects,
    write_classes,
    write_depths,
)

OVERLAP = 0.5  # of the union of two boxes, from which on they show one object
NEAR = 1.25  # the largest ratio of two depths that are alike
LEAST = 0.01  # of a map's largest depth: what is smaller is too far away to be told
Outputs = dict[str, np.ndarray]


class Tells(ABC):
    """Makes an answer of the outputs of one kind of model.

    Attributes:
        map_of: what an answer holds of each pixel, and `write_map` writes as a PNG; None where it holds no such thing.
    """

    map_of: str | None = None
    write_map: Callable[[np.ndarray, Path], None]

    @abstractmethod
    def answer(self, outputs: Outputs, shape: tuple[int, ...], labels: Sequence[str]) -> Any:
        """Return what is said of a picture of a shape (height, width, 3)."""

    @abstractmethod
    def row(self, answer: Any, labels: Sequence[str], top: int) -> dict[str, Any]:
        """Return an answer as JSON has it."""

    @abstractmethod
    def agreement(self, answer: Any, first: Any, numbers: np.ndarray) -> float:
        """Return how far an answer is that of the first model, 0 to 1.

        Args:
            numbers: of each class in the answer, its number in the first model's; -1 where that does not have it.
        """


class TellsClass(Tells):
    """Probabilities, an array (classes,); the most probable one counts."""

    def answer(self, outputs: Outputs, shape: tuple[int, ...], labels: Sequence[str]) -> np.ndarray:
        return class_shares(outputs["logits"][0])

    def row(self, answer: np.ndarray, labels: Sequence[str], top: int) -> dict[str, Any]:
        best = np.argsort(-answer, kind="stable")[:top]
        return {"classes": [{"label": labels[each], "probability": float(answer[each])} for each in best]}

    def agreement(self, answer: np.ndarray, first: np.ndarray, numbers: np.ndarray) -> float:
        return float(numbers[answer.argmax()] == first.argmax())


class TellsPixels(Tells):
    """The class of every pixel, uint8 (height, width)."""

    map_of, write_map = "classes", staticmethod(write_classes)

    def answer(self, outputs: Outputs, shape: tuple[int, ...], labels: Sequence[str]) -> np.ndarray:
        return class_of_pixels(outputs["logits"][0], *shape[:2])

    def row(self, answer: np.ndarray, labels: Sequence[str], top: int) -> dict[str, Any]:
        shares = np.bincount(answer.ravel()) / answer.size
        found = [each for each in np.argsort(-shares, kind="stable") if shares[each]]
        return {"pixels": [{"label": labels[each], "share": float(shares[each])} for each in found]}

    def agreement(self, answer: np.ndarray, first: np.ndarray, numbers: np.ndarray) -> float:
        return float((numbers[answer] == first).mean())


class TellsDepth(Tells):
    """The depth of every pixel, float32 (height, width)."""

    map_of, write_map = "depths", staticmethod(write_depths)

    def answer(self, outputs: Outputs, shape: tuple[int, ...], labels: Sequence[str]) -> np.ndarray:
        return depth_of_pixels(outputs["predicted_depth"][0], *shape[:2])

    def row(self, answer: np.ndarray, labels: Sequence[str], top: int) -> dict[str, Any]:
        return {"depth": {"smallest": float(answer.min()), "largest": float(answer.max())}}

    def agreement(self, answer: np.ndarray, first: np.ndarray, numbers: np.ndarray) -> float:
        """Return the share of pixels less than a quarter off, after scale and shift were fitted by least squares.

        Pixels of which the first model's depth is under a hundredth of its largest do not count.
        """
        said, true = answer.astype(float), first.astype(float)
        centred = said - said.mean()
        scale = (centred * true).sum() / max((centred**2).sum(), np.finfo(float).tiny)
        least = LEAST * max(true.max(), np.finfo(float).tiny)
        counted = true >= least
        found, true = np.maximum(scale * centred + true.mean(), least)[counted], true[counted]
        return float((np.maximum(found / true, true / found) < NEAR).mean()) if counted.any() else 0.0


class TellsObjects(Tells):
    """Objects, (found, 6), as `found_objects` returns them, boxes in pixels."""

    def answer(self, outputs: Outputs, shape: tuple[int, ...], labels: Sequence[str]) -> np.ndarray:
        found = found_objects(outputs["logits"][0], outputs["pred_boxes"][0], len(labels))
        height, width = shape[:2]
        return found * (1, 1, width, height, width, height)

    def row(self, answer: np.ndarray, labels: Sequence[str], top: int) -> dict[str, Any]:
        return {
            "objects": [
                {"label": labels[int(number)], "score": float(score), "box": list(map(float, box))}
                for score, number, *box in answer
            ]
        }

    def agreement(self, answer: np.ndarray, first: np.ndarray, numbers: np.ndarray) -> float:
        """Return twice the objects that both have, of one class and overlapping by half the union, by all of both."""
        free, both = list(first), 0
        for _, number, *box in answer:
            same = [
                place
                for place, (_, other, *theirs) in enumerate(free)
                if numbers[int(number)] == other and _overlap(box, theirs) >= OVERLAP
            ]
            if same:
                both += 1
                free.pop(max(same, key=lambda place: _overlap(box, free[place][2:])))
        return 2 * both / (len(answer) + len(first)) if len(answer) + len(first) else 1.0


TELLING: dict[str, Tells] = {
    CLASSIFIES: TellsClass(),
    SEGMENTS: TellsPixels(),
    SEES_DEPTH: TellsDepth(),
    DETECTS: TellsObjects(),
}


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the intersection of two boxes (left, top, right, bottom) by their union."""
    wide, high = (max(0.0, min(one[i + 2], other[i + 2]) - max(one[i], other[i])) for i in (0, 1))
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return wide * high / (areas - wide * high) if wide * high else 0.0
