"""What a user wishes of the model that is searched for."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator, model_validator

from hf_compress.report.measures import in_thousands, milliseconds, size
from hf_compress.run.selection.limits import MARGIN
from hf_compress.sections.base import Section

UNITS = {"": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9}


def _most(description: str):
    return Field(None, gt=0, description=description)


class Wish(Section):
    """The most that the model may cost in its runtime, and the most of the teacher's quality that may go for it."""

    faster: float | None = Field(None, gt=1, description="So many times faster than the model, which is in float32.")
    latency_ms: float | None = _most("Median latency of one image in the runtime, in milliseconds.")
    bytes: float | str | None = _most("Size of the deployed file: 2000000 or 2MB.")
    macs: float | None = _most("Multiply-accumulates for one image.")
    parameters: float | None = _most("Number of parameters.")
    memory: float | str | None = _most("Peak of the memory of a forward pass in PyTorch, in bytes: 50MB.")
    max_drop: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Most of the deciding metric that may be lost against the model (0.01: one point of accuracy), on "
        "validation images.",
    )

    @field_validator("bytes", "memory", mode="before")
    @classmethod
    def _with_unit(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        match = re.fullmatch(r"(\d+(?:\.\d*)?)([kMG]B)?", value.replace(" ", ""), re.IGNORECASE)
        if not match:
            raise ValueError("write bytes as 2000000 or 2MB")
        return float(match[1]) * UNITS[(match[2] or "").lower()]

    @model_validator(mode="after")
    def _something(self):
        if all(value is None for value in vars(self).values()):
            raise ValueError("name at least one of " + ", ".join(type(self).model_fields))
        return self

    def limits(self, teacher_ms: float, sure: float = 1.0) -> dict[str, float]:
        """Return the most of each cost.

        Args:
            teacher_ms: latency of the teacher, timed in turn with the model that is judged.
            sure: share of that by which the model is faster for certain. Times alone drift more from one process to
                the next than their ratios: of `latency_ms` a tenth is kept back.
        """
        times = [
            self.latency_ms and self.latency_ms * MARGIN,
            self.faster and teacher_ms * sure / self.faster,
        ]
        found = {"bytes": self.bytes, "macs": self.macs, "parameters": self.parameters}
        found |= {
            "latency_ms": min((time for time in times if time is not None), default=None),
            "peak_memory_bytes": self.memory,
        }
        return {key: value for key, value in found.items() if value is not None}

    @property
    def is_of_time(self) -> bool:
        return self.faster is not None or self.latency_ms is not None

    @property
    def has_limits(self) -> bool:
        return any(value is not None for key, value in vars(self).items() if key != "max_drop")

    @property
    def steered_by(self) -> str:
        """The cost by which the search goes: one that is counted, so that two searches of one seed are the same."""
        if self.is_of_time or self.macs is not None:
            return "effort"
        named = {"bytes": "bytes", "parameters": "parameters", "memory": "peak_memory_bytes"}
        return next((cost for key, cost in named.items() if getattr(self, key) is not None), "effort")

    @property
    def falls_with_pixels(self) -> bool:
        """Whether a smaller picture lowers the cost by which the search goes."""
        return self.steered_by not in ("bytes", "parameters")

    def __str__(self) -> str:
        words = {
            "faster": lambda value: f"{value:g} times faster",
            "latency_ms": lambda value: f"at most {milliseconds(value)}",
            "bytes": lambda value: f"at most {size(value)}",
            "macs": lambda value: f"at most {in_thousands(value)} MACs",
            "parameters": lambda value: f"at most {in_thousands(value)} parameters",
            "memory": lambda value: f"at most {size(value)} of memory",
            "max_drop": lambda value: f"at most {value:g} lost",
        }
        return ", ".join(words[key](value) for key, value in vars(self).items() if value is not None)
