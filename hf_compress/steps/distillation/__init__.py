"""The `distill` step."""

from hf_compress.context import Context
from hf_compress.steps.base import Step, StepResult, register_step
from hf_compress.steps.distillation import feature_losses  # noqa: F401  (registers them)
from hf_compress.steps.distillation.config import LOSSES, DistillConfig, LossConfig
from hf_compress.steps.distillation.losses import register_loss

__all__ = ["LOSSES", "Distill", "DistillConfig", "LossConfig", "register_loss"]


@register_step("distill")
class Distill(Step[DistillConfig]):
    """Trains the model to give the teacher's outputs; the epoch with the best validation accuracy is kept."""

    Config = DistillConfig

    @property
    def needs_teacher(self) -> bool:
        return True

    def apply(self, model, context: Context) -> StepResult:
        from hf_compress.training.fitting import train

        return StepResult(model, train(model, context, self.config, teacher=context.teacher))
