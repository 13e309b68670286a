"""Does an exported model say the same as PyTorch?"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_compress.ground.outputs import deployed_tensors
from hf_compress.ground.queries import BOXES, in_like_order
from hf_compress.models.exporting import DeployedModel

QUERIES = 1000  # of a detector's, one of which may differ: selected in place of another that scores alike


class Agreement:
    """How far a file is from the model, over images as they come."""

    def __init__(self):
        self._off: dict[str, list[Tensor]] = defaultdict(list)
        self._largest: dict[str, list[Tensor]] = defaultdict(list)
        self._same: list[Tensor] = []

    def add(self, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
        """Count the outputs for some images, of one shape in both; a detector's queries may come in another order."""
        found = in_like_order(expected, found)
        axes = 2 if BOXES in expected else 1  # images, and queries
        for name, value in expected.items():
            off = (value - found[name]).abs()
            self._off[name].append(off.reshape(off.shape[:axes].numel(), -1).amax(dim=1))
            self._largest[name].append(value.abs().max())
        if "logits" in expected:
            self._same.append((expected["logits"].argmax(axes) == found["logits"].argmax(axes)).flatten())

    @property
    def row(self) -> dict[str, Any]:
        """`max_difference` by output, and for logits `top1_agreement`: the fraction with the same best class."""
        agreed = {"top1_agreement": torch.cat(self._same).float().mean().item()} if self._same else {}
        return {"max_difference": {name: torch.cat(off).max().item() for name, off in self._off.items()}, **agreed}

    def within(self, tolerance: float) -> bool:
        """Return whether all is finite, and differs by at most a fraction of the output's largest value, or of 1.

        Of a detector's queries one in a thousand may differ by more.
        """
        for name, values in self._off.items():
            off = torch.cat(values)
            allowed = tolerance * max(1.0, torch.stack(self._largest[name]).max())
            spared = len(off) // QUERIES if BOXES in self._off else 0
            if not off.isfinite().all() or (off > allowed).sum() > spared:
                return False
        return True

    def __str__(self) -> str:
        said = [f"{name} differ by {off:.3g}" for name, off in self.row["max_difference"].items()]
        if self._same:
            counted = "queries" if BOXES in self._off else "images"
            said.append(f"the best class is the same for {self.row['top1_agreement']:.1%} of the {counted}")
        return ", ".join(said)


def agreements(model: nn.Module, files: Sequence[DeployedModel], images: Iterable[Tensor]) -> list[Agreement]:
    """Compare files with the model that they were written from.

    Args:
        model: takes `pixel_values`.
        images: batches of shape (images, 3, height, width).
    """
    found = [Agreement() for _ in files]
    with torch.inference_mode():
        for batch in images:
            expected = deployed_tensors(model(pixel_values=batch))
            for agreement, file in zip(found, files, strict=True):
                agreement.add(expected, file(batch))
    return found
