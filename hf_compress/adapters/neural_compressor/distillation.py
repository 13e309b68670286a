"""The distillation of a model between `prepare` and `convert`."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from hf_compress.adapters.neural_compressor.configs import DistillConfig
from hf_compress.errors import UsageError
from hf_compress.labels import labels_of, order_of, reordered
from hf_compress.looking import twin
from hf_compress.steps.distillation.config import LOSSES

STATE = "hf_compress_distillation"


class Distillation:
    """Runs a twin of the teacher after every forward pass in training, on the same inputs, and has the loss.

    An output of transformers gets the distillation loss as its `loss`, so a loop that trains with `outputs.loss`
    distils; for other models, or where the labels are not given to the model, `loss` is called. The teacher's logits
    are put into the model's order of classes, where configs of transformers name them.
    """

    def __init__(self, model: nn.Module, config: DistillConfig):
        if hasattr(model, STATE):
            raise UsageError("the model is prepared for distillation already: convert it first")
        self.section = config.section()
        self.function = LOSSES.get(self.section.loss)
        self.original = config.teacher()
        self.teacher = twin(self.original)
        self.order = order_of(labels_of(self.teacher), labels_of(model))
        self.teacher_logits: Tensor | None = None
        self.hook = model.register_forward_hook(self._after_forward, with_kwargs=True)
        setattr(model, STATE, self)

    def loss(self, outputs: Any, labels: Tensor | None = None) -> Tensor:
        """Return the loss of the last training batch.

        Raises:
            UsageError: there was none, or the loss needs labels.
        """
        if self.teacher_logits is None:
            raise UsageError("the teacher has seen no batch: run the prepared model in train mode first")
        if labels is None and self.function.needs_labels:
            raise UsageError(f"loss '{self.section.loss}' needs labels: pass them, or use the loss mse, kl or dist")
        student, teacher = logits_of(outputs), self.teacher_logits
        return self.function.function(student.float(), teacher.float(), labels, self.section)

    def finish(self, model: nn.Module) -> None:
        """Leave an ordinary model."""
        self.hook.remove()
        delattr(model, STATE)

    def _after_forward(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], outputs: Any) -> Any:
        if not model.training:
            return outputs
        images = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
        self.teacher.to(images.device)
        with torch.no_grad():
            self.teacher_logits = reordered(logits_of(self.teacher(images)), self.order)
        labels = kwargs.get("labels")
        if not isinstance(outputs, ModelOutput) or (labels is None and self.function.needs_labels):
            return outputs
        return type(outputs)(**{**outputs, "loss": self.loss(outputs, labels)})

    def __deepcopy__(self, memo: dict[int, Any]) -> Distillation:
        """Copies of the model share the teacher."""
        memo |= {id(shared): shared for shared in (self.original, self.teacher)}
        copied = memo[id(self)] = copy.copy(self)
        copied.hook = copy.deepcopy(self.hook, memo)
        return copied


def distillation_of(model: nn.Module) -> Distillation | None:
    """Return the distillation in progress."""
    return getattr(model, STATE, None)


def logits_of(outputs: Any) -> Tensor:
    """Return the logits, shape (batch, classes), of an output of transformers, or the output itself."""
    return outputs.logits if isinstance(outputs, ModelOutput) else outputs
