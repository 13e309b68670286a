"""The `quantize` step."""

from pydantic import Field

from hf_compress.config import MOST, Section
from hf_compress.context import Context
from hf_compress.steps.base import Step, StepResult, register_step

__all__ = ["Quantize", "QuantizeConfig"]


class QuantizeConfig(Section):
    """Static 8-bit quantisation of weights and activations by Neural Compressor."""

    images: int = Field(256, ge=1, le=MOST, description="Training images that set the ranges of the activations.")
    repeats: int = Field(30, ge=3, le=MOST, description="Timed forward passes a model and batch size.")


@register_step("quantize")
class Quantize(Step[QuantizeConfig]):
    """Writes `model_int8.onnx` into the run folder.

    No `from_pretrained` reloads a graph of 8-bit operators, so the checkpoint stays in floats; accuracy, size and
    latency of the 8-bit model stand in the details of the step's row.
    """

    Config = QuantizeConfig
    alone = True

    def apply(self, model, context: Context) -> StepResult:
        from hf_compress.steps.quantization.int8 import quantize

        return StepResult(model, quantize(model, context, self.config))
