"""Section `quantize` of a recipe."""

from pydantic import Field, model_validator

from hf_compress.sections.base import MOST, TrainingConfig
from hf_compress.sections.distillation import LossConfig


class QuantizeSection(LossConfig):
    """The `quantize` step: training with int8 simulated, against the teacher or the model as it was before."""

    epochs: int = Field(2, ge=1, le=MOST, description=TrainingConfig.model_fields["epochs"].description)
    loss: str = Field(
        "kl",
        description="A distillation loss from the recipe's teacher, or where there is none, from the model as it was "
        "before the step; or `ce` (labels only).",
    )

    @model_validator(mode="after")
    def _compiled_layers_are_hidden_from_int8(self):
        if self.compile:
            raise ValueError("int8 is simulated within the layers of the model: leave out compile")
        return self
