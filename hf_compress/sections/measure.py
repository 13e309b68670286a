"""Section `measure` of a recipe."""

from typing import Literal

from pydantic import Field

from hf_compress.sections.base import MOST, Section

SECOND = 64  # pictures of 224 x 224 pixels


class MeasureSection(Section):
    batch_size: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Second batch size of the latency table, beside 1. When not given 64, and of pictures with more "
        "than 224 x 224 pixels as many as have the pixels of 64 such.",
    )
    threads: int | None = Field(None, ge=1, le=4096, description="CPU threads; all cores when not given.")
    repeats: int = Field(30, ge=3, le=MOST, description="Timed forward passes a model and batch size.")
    runtimes: list[Literal["eager", "compile", "onnxruntime"]] = Field(
        ["eager"], description="Where latency is measured; `eager` always is."
    )
