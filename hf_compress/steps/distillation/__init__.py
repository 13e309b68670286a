"""The `distill` step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_compress.losses.logits import register_loss
from hf_compress.sections.distillation import LOSSES, DistillSection, LossConfig
from hf_compress.steps.base import Step, StepResult, register_step
from hf_compress.training.context import Context

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LOSSES", "Distill", "DistillSection", "LossConfig", "register_loss"]


@register_step("distill")
class Distill(Step[DistillSection]):
    """Trains the model to give the teacher's outputs; the epoch that is best on validation images is kept."""

    Config = DistillSection

    @property
    def needs_teacher(self) -> bool:
        return True

    @property
    def distils(self) -> bool:
        return not self.config.labels_only

    def on_labels(self) -> Distill:
        """Return the step itself: without a teacher, `train` reads of its section how to train, and no loss."""
        return self

    def apply(self, model: PreTrainedModel, context: Context) -> StepResult:
        from hf_compress.training.fitting import train

        return StepResult(model, train(model, context, self.config, teacher=context.teacher))
