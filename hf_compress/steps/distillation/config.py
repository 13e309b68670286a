"""Section `distill` of a recipe."""

from pydantic import Field, field_validator

from hf_compress.config import TrainingConfig
from hf_compress.registry import Registry

LOSSES: Registry = Registry("distillation loss", "hf_compress.losses")


class LossConfig(TrainingConfig):
    """Training against a teacher."""

    loss: str = Field("mse", description="`mse`, `mse_ce`, `kl`, or a registered name.")
    mse_weight: float = Field(1.0, ge=0, description="Weight of the distance to the teacher in `mse_ce`.")
    ce_weight: float = Field(1.0, ge=0, description="Weight of the cross-entropy with the labels in `mse_ce`.")
    temperature: float = Field(4.0, gt=0, description="Temperature of `kl`.")

    @field_validator("loss")
    @classmethod
    def _known(cls, name: str) -> str:
        from hf_compress.steps.distillation import losses  # noqa: F401  (registers the built-in losses; no torch)

        return LOSSES.known(name)


class DistillConfig(LossConfig):
    """The `distill` step: the student learns from the recipe's teacher."""
