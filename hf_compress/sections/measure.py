"""Section `measure` of a recipe."""

from typing import Literal

from pydantic import Field

from hf_compress.sections.base import MOST, Section


class MeasureSection(Section):
    batch_size: int = Field(64, ge=1, le=MOST, description="Second batch size of the latency table, beside 1.")
    threads: int | None = Field(None, ge=1, le=4096, description="CPU threads; all cores when not given.")
    repeats: int = Field(30, ge=3, le=MOST, description="Timed forward passes a model and batch size.")
    runtimes: list[Literal["eager", "compile", "onnxruntime"]] = Field(
        ["eager"], description="Where latency is measured; `eager` always is."
    )
