"""Section `rewrite` of a recipe."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from hf_compress.ground.registry import Registry
from hf_compress.sections.base import MOST, Section

REWRITINGS: Registry = Registry("rewrite", "hf_compress.rewrites")
OWN_OPTIONS = {"energy": "factorize", "rank": "separable", "to": "activations"}


class RewriteBudget(Section):
    """What may be left of the model; the layers that err least for what they save are rewritten until it is met."""

    macs: float = Field(gt=0, lt=1, description="Fraction of the MACs that is left.")


class RewriteConfig(Section):
    """The `rewrite` step."""

    kind: str = Field(description="`separable`, `factorize`, `strided_pool`, `activations`, or a registered name.")
    layers: list[str] = Field(
        [], description="Layers to rewrite, by name with wildcards: `encoder.stages.3.*`; all when not given."
    )
    exclude: list[str] = Field([], description="Layers to leave alone, by name with wildcards.")
    budget: RewriteBudget | None = Field(
        None, description="Rewrite no more layers than this takes; without it, every layer that `layers` names."
    )
    energy: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Of kind `factorize`: fraction of the squared singular values that each layer keeps.",
    )
    rank: int = Field(1, ge=1, le=MOST, description="Of kind `separable`: depthwise kernels for each input channel.")
    to: Literal["relu", "relu6"] = Field("relu", description="Of kind `activations`: what the others become.")
    images: int = Field(
        256, ge=1, le=MOST, description="Validation images on which errors are measured, and training images for fits."
    )

    @field_validator("kind")
    @classmethod
    def _known(cls, name: str) -> str:
        return REWRITINGS.known(name)

    @model_validator(mode="after")
    def _consistent(self):
        for option, kind in OWN_OPTIONS.items():
            default = type(self).model_fields[option].default
            if self.kind != kind and getattr(self, option) != default:
                raise ValueError(f"{option} belongs to kind '{kind}': leave it out")
        if self.budget and not REWRITINGS.get(self.kind).saves_macs:
            raise ValueError(f"kind '{self.kind}' saves no MACs: leave out budget, and name layers instead")
        return self
