"""What can be selected: every registered architecture in several widths, and what each costs without memory."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from hf_compress.ground.progress import track
from hf_compress.measure.cost import count_macs, count_parameters
from hf_compress.models.load import LoadedModel
from hf_compress.models.students import build_model, build_registered, students_for
from hf_compress.run.selection.limits import IN_WORDS
from hf_compress.sections.models import StudentSection
from hf_compress.tasks.classification import CLASSIFICATION

STUDENT_WIDTHS = (0.25, 0.35, 0.5, 0.75, 1.0, 1.4)
RISKY = 0.5


@dataclass
class Candidate:
    """A registered architecture in one width.

    Attributes:
        costs: `parameters`, `macs`, `bytes`, and `latency_ms` once it was measured; the keys of a budget.
        pretrained: the checkpoint that it begins with; None where it starts from random weights.
        misses: why it does not fit the budget; None when it does.
        accuracies: validation accuracy after each probe; 0 where the training diverged.
    """

    model: str
    width: float
    costs: dict[str, float]
    pretrained: str | None = None
    misses: str | None = None
    accuracies: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.model} x{self.width:g}"

    def shown(self, key: str) -> str:
        """Return a cost with its unit."""
        return IN_WORDS[key](self.costs[key])

    @property
    def name(self) -> dict[str, Any]:
        """What a recipe calls it, but for its input size."""
        named = {"model": self.model, "width": self.width}
        return named if self.pretrained is None else named | {"pretrained": self.pretrained}

    def row(self) -> dict[str, Any]:
        """Return the entry in the report."""
        row = {**self.name, **self.costs, "fits": self.misses is None}
        if self.misses is not None:
            row["reason"] = self.misses
        return row | ({"probe_accuracies": self.accuracies} if self.accuracies else {})


@dataclass(frozen=True)
class Blueprint:
    """What all candidates have in common.

    Attributes:
        labels: class names.
        image_size: height and width of the input in pixels.
    """

    labels: list[str]
    image_size: int

    @property
    def image(self) -> torch.Tensor:
        return torch.zeros(1, 3, self.image_size, self.image_size)

    def build(self, candidate: Candidate) -> LoadedModel:
        """Return the candidate with the weights of its checkpoint, or random ones."""
        section = StudentSection(**candidate.name, image_size=self.image_size)
        return build_model(section, self.labels, CLASSIFICATION)

    def candidates(self, wanted: Callable[[str, float], bool] = lambda name, width: True) -> list[Candidate]:
        """Return every registered architecture in every one of `STUDENT_WIDTHS`, with its static costs.

        What cannot take images of this size is left out: ConvNeXt, for one, needs 32 pixels.

        Args:
            wanted: tells by name and width what is not left out either.
        """
        found = []
        for name in track(students_for(), "Counting the costs of students"):
            widths = [width for width in STUDENT_WIDTHS if wanted(name, width)]
            with suppress(RuntimeError):
                found += [Candidate(name, width, self.static_costs(name, width)) for width in widths]
        return found

    def static_costs(self, name: str, width: float) -> dict[str, float]:
        """Return `parameters`, `macs` and `bytes` on torch's meta device, where tensors have shapes but no memory."""
        with torch.device("meta"):
            model = build_registered(name, self.labels, width=width, image_size=self.image_size).model
            macs = count_macs(model, self.image)
        return {"parameters": count_parameters(model), "macs": macs, "bytes": checkpoint_bytes(model)}


def checkpoint_bytes(model: nn.Module) -> int:
    """Return the size that a model's safetensors file would have, but for some bytes a tensor of its header."""
    tensors = model.state_dict()
    header = save({name: torch.empty(0, *tensor.shape, dtype=tensor.dtype) for name, tensor in tensors.items()})
    return len(header) + sum(tensor.nbytes for tensor in tensors.values())


def hint(candidate: Candidate, teacher_parameters: int | None) -> str | None:
    """Return the founding article's rule of thumb where it warns: the student has less than half of the parameters."""
    if teacher_parameters is None or candidate.costs["parameters"] >= RISKY * teacher_parameters:
        return None
    share = candidate.costs["parameters"] / teacher_parameters
    return (
        f"{candidate} has {share:.1%} of the teacher's parameters; by a rule of thumb, students with less than half "
        "are risky: compare its accuracy with the teacher's"
    )
