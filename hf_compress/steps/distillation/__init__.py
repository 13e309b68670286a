"""The `distill` step."""

from hf_compress.losses.logits import register_loss
from hf_compress.sections.distillation import LOSSES, DistillSection, LossConfig
from hf_compress.steps.base import Step, StepResult, register_step
from hf_compress.training.context import Context

__all__ = ["LOSSES", "Distill", "DistillSection", "LossConfig", "register_loss"]


@register_step("distill")
class Distill(Step[DistillSection]):
    """Trains the model to give the teacher's outputs; the epoch that is best on validation images is kept."""

    Config = DistillSection

    @property
    def needs_teacher(self) -> bool:
        return True

    def apply(self, model, context: Context) -> StepResult:
        from hf_compress.training.fitting import train

        return StepResult(model, train(model, context, self.config, teacher=context.teacher))
