"""The `finetune` step: ordinary training with cross-entropy, also the control for every distillation."""

from hf_compress.sections.base import TrainingConfig
from hf_compress.steps.base import Step, StepResult, register_step
from hf_compress.training.context import Context


@register_step("finetune")
class Finetune(Step[TrainingConfig]):
    """Trains the model on the labels of the data."""

    Config = TrainingConfig

    def apply(self, model, context: Context) -> StepResult:
        from hf_compress.training.fitting import train

        return StepResult(model, train(model, context, self.config))
