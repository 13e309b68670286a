"""The distillation of a model between `prepare` and `convert`."""

from __future__ import annotations

import copy
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from hf_compress.adapters.neural_compressor.configs import DistillConfig
from hf_compress.checkpoint.labels import labels_of, order_of, reordered
from hf_compress.ground.errors import UsageError
from hf_compress.ground.looking import in_float32, twin
from hf_compress.losses.criterion import DistillationCriterion
from hf_compress.losses.layer_maps import Answer, layer_outputs
from hf_compress.sections.distillation import LOSSES
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.tasks.declared import refuse_other_tasks

STATE, PROJECTOR = "hf_compress_distillation", "hf_compress_projector_"


class Distillation:
    """Runs a twin of the teacher after every forward pass in training, on the same inputs, and has the loss.

    An output of transformers gets the distillation loss as its `loss`, so a loop that trains with `outputs.loss`
    distils; for other models, or where the labels are not given to the model, `loss` is called. The teacher's logits
    are put into the model's order of classes, where configs of transformers name them. What projects layers is among
    the model's own parameters, so that its optimizer trains it.

    Args:
        image: one input, which tells the widths of the layers that are compared.
    """

    def __init__(self, model: nn.Module, config: DistillConfig, image: Tensor | None):
        if hasattr(model, STATE):
            raise UsageError("the model is prepared for distillation already: convert it first")
        refuse_other_tasks(model, "the distillation between prepare and convert")
        self.criterion = DistillationCriterion(config.section(), CLASSIFICATION.compare)
        self.needs_labels = [term.loss for term in self.criterion.terms if LOSSES.get(term.loss).needs_labels]
        self.original = config.teacher()
        self.teacher = in_float32(twin(self.original))
        self.order = None
        if self.criterion.compares_logits:
            self.order = order_of(labels_of(self.teacher), labels_of(model))
        self.said: Answer | None = None
        if self.criterion.student_layers:
            self._match_layers(model, image)
        self.recording = ExitStack()
        self.hooks = [
            model.register_forward_pre_hook(self._before_forward),
            model.register_forward_hook(self._after_forward, with_kwargs=True),
        ]
        setattr(model, STATE, self)

    def loss(self, outputs: Any, labels: Tensor | None = None) -> Tensor:
        """Return the loss of the last training batch.

        Raises:
            UsageError: there was none, or the loss needs labels.
        """
        if self.said is None:
            raise UsageError("the teacher has seen no batch: run the prepared model in train mode first")
        if labels is None and self.needs_labels:
            raise UsageError(f"loss '{self.needs_labels[0]}' needs labels: pass them, or use the loss mse, kl or dist")
        student = Answer({"logits": logits_of(outputs).float()}, self.features)
        return self.criterion(student, self.said, {"labels": labels})

    def finish(self, model: nn.Module) -> None:
        """Leave an ordinary model."""
        self.recording.close()  # open where the last forward pass failed
        for hook in self.hooks:
            hook.remove()
        for name in [name for name in model._parameters if name.startswith(PROJECTOR)]:
            delattr(model, name)
        delattr(model, STATE)

    def _match_layers(self, model: nn.Module, image: Tensor | None) -> None:
        student = twin(model)

        def show() -> None:
            if image is None:
                raise UsageError("losses that compare layers need one input to see their widths: pass example_inputs")
            student(image)
            self.teacher.to(image.device)(image)

        self.criterion.match_layers(student, self.teacher, show)
        for number, parameter in enumerate(self.criterion.parameters()):
            model.register_parameter(f"{PROJECTOR}{number}", parameter)

    def _before_forward(self, model: nn.Module, args: tuple) -> None:
        if model.training:
            self.features = self.recording.enter_context(layer_outputs(model, self.criterion.student_layers))

    def _after_forward(self, model: nn.Module, args: tuple, kwargs: dict[str, Any], outputs: Any) -> Any:
        self.recording.close()
        if not model.training:
            return outputs
        images = kwargs["pixel_values"] if "pixel_values" in kwargs else args[0]
        self.teacher.to(images.device)
        with torch.no_grad(), layer_outputs(self.teacher, self.criterion.teacher_layers) as features:
            logits = reordered(logits_of(self.teacher(images)), self.order)
        self.said = Answer({"logits": logits.float()}, features)
        labels = kwargs.get("labels")
        if not isinstance(outputs, ModelOutput) or (labels is None and self.needs_labels):
            return outputs
        return type(outputs)(**{**outputs, "loss": self.loss(outputs, labels)})

    def __deepcopy__(self, memo: dict[int, Any]) -> Distillation:
        """Copies of the model share the teacher."""
        memo |= {id(shared): shared for shared in (self.original, self.teacher)}
        copied = memo[id(self)] = copy.copy(self)
        copied.recording, copied.said = ExitStack(), None
        copied.hooks, copied.criterion = copy.deepcopy((self.hooks, self.criterion), memo)
        return copied


def distillation_of(model: nn.Module) -> Distillation | None:
    """Return the distillation in progress."""
    return getattr(model, STATE, None)


def logits_of(outputs: Any) -> Tensor:
    """Return the logits, shape (batch, classes), of an output of transformers, or the output itself."""
    return outputs.logits if isinstance(outputs, ModelOutput) else outputs
