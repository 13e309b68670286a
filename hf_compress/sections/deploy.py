"""Section `deploy` of a recipe."""

from pydantic import Field, model_validator

from hf_compress.ground.errors import UsageError
from hf_compress.runtimes import RUNTIMES
from hf_compress.sections.base import MOST, Section


class DeploySection(Section):
    """One file for another runtime, written of the final model and measured there; a string is the runtime."""

    to: str = Field(description="onnx, openvino, executorch, litert, ncnn, coreml, pt2, or another package's runtime.")
    int8: bool = Field(False, description="8-bit weights and activations; without it the file is in float32.")
    images: int = Field(128, ge=1, le=MOST, description="Training images that set the ranges of int8 activations.")

    @model_validator(mode="after")
    def _can_be_written(self):
        RUNTIMES.known(self.to)
        kind = RUNTIMES.get(self.to)
        if self.int8 and not kind.int8:
            able = " or ".join(name for name in RUNTIMES if RUNTIMES.get(name).int8)
            why = f" ({kind.no_int8})" if kind.no_int8 else ""
            raise UsageError(f"{self.to} has no int8 here{why}: choose {able}, or leave int8 out")
        return self

    @property
    def stage(self) -> str:
        """What the report calls it."""
        return f"{self.to} int8" if self.int8 else self.to
