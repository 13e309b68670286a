"""The `quantize` step: training for int8."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_compress.steps.base import Step, StepResult, register_step
from hf_compress.steps.quantization.config import QuantizeSection
from hf_compress.training.context import Context

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["Quantize", "QuantizeSection"]


@register_step("quantize")
class Quantize(Step[QuantizeSection]):
    """Trains the model while int8 is simulated in it; its weights stay floats, and suit int8 when it is deployed."""

    Config = QuantizeSection

    @property
    def distils(self) -> bool:
        return not self.config.labels_only

    def on_labels(self) -> Quantize:
        return Quantize(self.config.on_labels())

    def apply(self, model: PreTrainedModel, context: Context) -> StepResult:
        from hf_compress.steps.quantization.training import train_for_int8

        return StepResult(model, train_for_int8(model, context, self.config))
