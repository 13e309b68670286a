"""Options of `student: auto`."""

from __future__ import annotations

from pydantic import Field, model_validator

from hf_compress.sections.base import MOST, Section

AUTO = "auto"


def _most(description: str):
    return Field(None, gt=0, allow_inf_nan=False, description=description)


class BudgetSection(Section):
    """The most that a student may cost; at least one bound."""

    parameters: float | None = _most("Number of parameters.")
    macs: float | None = _most("Multiply-accumulates for one image.")
    bytes: float | None = _most("Size of the checkpoint in float32.")
    latency_ms: float | None = _most("Median latency of one image on this device, in PyTorch, in milliseconds.")

    @model_validator(mode="after")
    def _at_least_one(self):
        if not self.limits:
            raise ValueError(f"name at least one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Return the bounds that were named."""
        return {key: limit for key, limit in vars(self).items() if limit is not None}


class ProbeSection(Section):
    """Short trainings in which students compete."""

    candidates: int = Field(6, ge=1, le=MOST, description="Students that compete.")
    images: int = Field(
        1000, ge=1, le=MOST, description="Training images of a probe, and at most as many validation images."
    )
    epochs: int = Field(
        2, ge=1, le=MOST, description="Epochs in the first rung; they double in each of the following."
    )
