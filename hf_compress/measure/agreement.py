"""Does an exported model say the same as PyTorch?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import isfinite, isnan
from typing import Any

import torch
from torch import nn

from hf_compress.models.exporting import DeployedModel
from hf_compress.models.folding import tensors


@dataclass
class Agreement:
    """How far a file is from the model, over images as they come.

    Attributes:
        max_difference: largest absolute difference, by output.
        largest: largest absolute value of the model's own, by output.
        same, compared: answers (of a classifier, one an image) whose best class is the same, and all of them.
    """

    max_difference: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)
    same: int = 0
    compared: int = 0

    def add(self, expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor]) -> None:
        """Count the outputs for some images, of one shape in both."""
        for name, value in expected.items():
            difference = (value - found[name]).abs().max().item()
            self.max_difference[name] = max(difference, self.max_difference.get(name, 0.0), key=_worst)
            self.largest[name] = max(value.abs().max().item(), self.largest.get(name, 0.0))
        if "logits" in expected:
            same = expected["logits"].argmax(dim=1) == found["logits"].argmax(dim=1)
            self.same += int(same.sum())
            self.compared += same.numel()

    def within(self, tolerance: float) -> bool:
        """Return whether all is finite, and differs by at most a fraction of the output's largest value, or of 1."""
        return all(
            isfinite(off) and off <= tolerance * max(1.0, self.largest[name])
            for name, off in self.max_difference.items()
        )

    @property
    def row(self) -> dict[str, Any]:
        """`max_difference`, and for logits `top1_agreement`: the fraction of answers with the same best class."""
        agreed = {"top1_agreement": self.same / self.compared} if self.compared else {}
        return {"max_difference": self.max_difference, **agreed}

    def __str__(self) -> str:
        said = [f"{name} differ by {off:.3g}" for name, off in self.max_difference.items()]
        if self.compared:
            said.append(f"the best class is the same for {self.same / self.compared:.1%} of the images")
        return ", ".join(said)


def _worst(difference: float) -> float:
    return float("inf") if isnan(difference) else difference


def agreements(model: nn.Module, files: Sequence[DeployedModel], images: Iterable[torch.Tensor]) -> list[Agreement]:
    """Compare files with the model that they were written from.

    Args:
        model: takes `pixel_values`.
        images: batches of shape (images, 3, height, width).
    """
    found = [Agreement() for _ in files]
    with torch.inference_mode():
        for batch in images:
            expected = tensors(model(pixel_values=batch))
            for agreement, file in zip(found, files, strict=True):
                agreement.add(expected, file(batch))
    return found
