"""The `distill_features` step."""

from hf_compress.sections.base import TrainingConfig
from hf_compress.steps.base import Step, StepResult, register_step
from hf_compress.training.context import Context


@register_step("distill_features")
class DistillFeatures(Step[TrainingConfig]):
    """Trains a backbone to give the teacher's embeddings: mean squared error, labels not needed."""

    Config = TrainingConfig
    task = "features"

    @property
    def needs_teacher(self) -> bool:
        return True

    def apply(self, model, context: Context) -> StepResult:
        from hf_compress.steps.feature_distillation.training import distil_features

        return distil_features(model, context, self.config)
