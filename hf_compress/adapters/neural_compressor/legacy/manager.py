"""`prepare_compression` and the callbacks of a training loop."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from hf_compress.adapters.neural_compressor.distillation import logits_of
from hf_compress.adapters.neural_compressor.legacy.configs import DistillationConfig, WeightPruningConfig
from hf_compress.adapters.neural_compressor.legacy.pruner import Pruner
from hf_compress.errors import UsageError
from hf_compress.labels import labels_of, order_of, reordered
from hf_compress.looking import twin

Config = WeightPruningConfig | DistillationConfig


class CallBacks:
    """What a training loop calls.

    Attributes:
        pruners: one for each entry of `pruning_configs`.
        order: index, among the teacher's logits, of each class of the model; None where the order is the same.
    """

    def __init__(self, pruners: list[Pruner], distillation: DistillationConfig | None, order: list[int] | None = None):
        self.pruners = pruners
        self.distillation = distillation
        self.order = order

    @cached_property
    def teacher(self) -> nn.Module:
        """A twin of the teacher, made when it is first asked, on the device where the loop has put it by then."""
        return twin(self.distillation.teacher_model)

    def on_train_begin(self, dataloader: Any = None) -> None:
        """Do nothing."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Do nothing, as before."""

    def on_step_begin(self, batch_id: int) -> None:
        """Prune where the schedule says so."""
        for pruner in self.pruners:
            pruner.on_step_begin()

    def on_after_compute_loss(
        self, input: Any, student_output: Any, student_loss: Tensor, teacher_output: Any = None
    ) -> Tensor:
        """Return the loss to train with: `student_loss` itself where nothing is distilled.

        Args:
            input: what the student got: a tensor, a sequence of arguments, or a dict of them.
            student_output: logits, or an output of transformers.
            student_loss: the loop's own loss.
            teacher_output: the teacher's, where the loop has it already.
        """
        if self.distillation is None:
            return student_loss
        loss = self.distillation.criterion
        own, distance = loss.loss_weights
        if not distance:
            return student_loss
        if teacher_output is None:
            teacher_output = _forward(self.teacher, input)
        student = logits_of(student_output) / loss.temperature
        teacher = reordered(logits_of(teacher_output), self.order) / loss.temperature
        distillation_loss = _distance(loss.loss_types[1], student, teacher) * loss.temperature**2
        return own * student_loss + distance * distillation_loss

    def on_before_optimizer_step(self) -> None:
        """Score weights by their gradients, for the types that need them."""
        for pruner in self.pruners:
            pruner.on_before_optimizer_step()

    def on_after_optimizer_step(self) -> None:
        """Keep pruned weights at zero."""
        for pruner in self.pruners:
            pruner.on_after_optimizer_step()

    def on_step_end(self) -> None:
        """Do nothing, as before."""

    def on_epoch_end(self) -> None:
        """Do nothing, as before."""

    def on_before_eval(self) -> None:
        """Do nothing, as before."""

    def on_after_eval(self) -> None:
        """Do nothing, as before."""

    def on_train_end(self) -> None:
        """Tell the sparsity."""
        for pruner in self.pruners:
            pruner.on_train_end()


class CompressionManager:
    """What `prepare_compression` returns.

    Attributes:
        model: the model itself; it is changed in place.
        callbacks: for the training loop.
    """

    def __init__(self, model: nn.Module, callbacks: CallBacks):
        self.model = model
        self.callbacks = callbacks

    def save(self, root: str | Path) -> None:
        """Write the model in Hub form: see `hf_compress.save`.

        Raises:
            UsageError: it is not a model of transformers.
        """
        from hf_compress.checkpoint import save

        if not isinstance(self.model, PreTrainedModel):
            raise UsageError(f"{type(self.model).__name__} is not a model of transformers: torch.save its state_dict")
        save(self.model, root)


def prepare_compression(model: nn.Module, confs: Config | list[Config]) -> CompressionManager:
    """Make a manager whose callbacks prune and distil `model` in a training loop.

    Raises:
        UsageError: a config is of another kind, or matches no layer; or the teacher's classes are not the model's.
    """
    pruners: list[Pruner] = []
    distillation = None
    for conf in confs if isinstance(confs, list) else [confs]:
        if isinstance(conf, WeightPruningConfig):
            pruners += [Pruner(options, model) for options in conf.pruners]
        elif isinstance(conf, DistillationConfig):
            distillation = conf
        else:
            raise UsageError(
                f"{type(conf).__name__} is no config of prepare_compression: use WeightPruningConfig or "
                "DistillationConfig"
            )
    order = order_of(labels_of(distillation.teacher_model), labels_of(model)) if distillation else None
    return CompressionManager(model, CallBacks(pruners, distillation, order))


def _forward(model: nn.Module, inputs: Any) -> Any:
    with torch.no_grad():
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, list | tuple) else model(inputs)


def _distance(kind: str, student: Tensor, teacher: Tensor) -> Tensor:
    if kind == "MSE":
        return F.mse_loss(student, teacher)
    if kind == "CE":
        return F.cross_entropy(student, teacher.softmax(dim=-1))
    return F.kl_div(student.log_softmax(dim=-1), teacher.softmax(dim=-1), reduction="none").mean()
