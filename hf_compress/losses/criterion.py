"""The training loss of a distillation: a weighted sum over outputs and layers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hf_compress.ground.errors import RunError, UsageError
from hf_compress.losses.layer_maps import Answer, as_map, layer_outputs, of_one_size, require_layers
from hf_compress.sections.distillation import LOSSES, LossConfig, LossTerm


class DistillationCriterion(nn.Module):
    """The weighted sum of the losses of a section. Its parameters are trained together with the student.

    Args:
        compare: applies a loss of logits to the outputs of student and teacher, as the task says: see
            `tasks.base.Task.compare`.

    Attributes:
        compares_logits: whether a loss reads the teacher's logits, so that its classes must be the student's.
        student_layers, teacher_layers: names of the layers that are compared; none for losses of outputs alone.
        projectors: by pair of layers, see `_key`, the 1x1 convolution from the student's channels to the teacher's.
    """

    def __init__(self, config: LossConfig, compare: Callable[..., Tensor]):
        super().__init__()
        self.compare = compare
        self.terms = config.terms
        self.compares_logits = any(not term.layers and term.loss != "ce" for term in self.terms)
        self.student_layers = {layer for term in self.terms for layer in term.layers}
        self.teacher_layers = {layer for term in self.terms for layer in term.layers.values()}
        self.projectors = nn.ModuleDict()

    def forward(self, student: Answer, teacher: Answer, batch: dict[str, Any]) -> Tensor:
        """Return the loss of a batch with what was said to it, a scalar.

        Raises:
            RunError: a loss needs labels, and there are none.
        """
        return sum(term.weight * self._value(term, student, teacher, batch) for term in self.terms)

    def match_layers(self, student: nn.Module, teacher: nn.Module, show: Callable[[], None]) -> None:
        """Check the layers, and build projectors where losses ask for them and channels differ.

        Args:
            show: runs both models on a batch.

        Raises:
            UsageError: a model has no such layer, it takes no part in a forward pass, or it gives no map.
        """
        require_layers(student, self.student_layers, "student")
        require_layers(teacher, self.teacher_layers, "teacher")
        with (
            torch.no_grad(),
            layer_outputs(student, self.student_layers) as given,
            layer_outputs(teacher, self.teacher_layers) as wanted,
        ):
            show()
        for layer in (self.student_layers - given.keys()) | (self.teacher_layers - wanted.keys()):
            raise UsageError(f"layer '{layer}' takes no part in a forward pass: name another in 'layers'")
        for term in self.terms:
            for mine, theirs in term.layers.items():
                inputs, outputs = as_map(given[mine], mine).shape[1], as_map(wanted[theirs], theirs).shape[1]
                key = _key(mine, theirs)
                if LOSSES.get(term.loss).projects and inputs != outputs and key not in self.projectors:
                    self.projectors[key] = nn.Conv2d(inputs, outputs, 1).to(given[mine].device)

    def _value(self, term: LossTerm, student: Answer, teacher: Answer, batch: dict[str, Any]) -> Tensor:
        loss = LOSSES.get(term.loss)
        if loss.compares_layers:
            pairs = (self._maps(student, teacher, pair, loss.projects) for pair in term.layers.items())
            return sum(loss.function(*maps, term) for maps in pairs)
        if batch.get("labels") is None and loss.needs_labels:
            raise RunError(f"loss '{term.loss}' needs 'labels' in every batch; mse, kl and dist do without")

        def function(mine: Tensor, theirs: Tensor, labels: Tensor | None) -> Tensor:
            return loss.function(mine, theirs, labels, term)

        return self.compare(function, student.outputs, teacher.outputs, batch)

    def _maps(self, student: Answer, teacher: Answer, pair: tuple[str, str], projects: bool) -> tuple[Tensor, Tensor]:
        maps = as_map(student.features[pair[0]], pair[0]), as_map(teacher.features[pair[1]], pair[1])
        mine, theirs = of_one_size(*maps)
        key = _key(*pair)
        return (self.projectors[key](mine) if projects and key in self.projectors else mine), theirs


def _key(student_layer: str, teacher_layer: str) -> str:
    """Return the name of a pair, without the dots that a module's name must not have."""
    return f"{student_layer}->{teacher_layer}".replace(".", "/")
