"""Optimum's configurations: what is done to a model, in a folder or on the Hub."""

from __future__ import annotations

from typing import Any, ClassVar

from optimum.configuration_utils import BaseConfig
from pydantic import ValidationError

from hf_compress.ground.errors import UsageError
from hf_compress.ground.registry import did_you_mean
from hf_compress.run.recipe import Recipe
from hf_compress.sections.base import Section, sentence
from hf_compress.sections.distillation import DistillSection
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.quantization.config import QuantizeSection


class OptimumStep(Section):
    """A section whose constructor says what is wrong in one sentence."""

    step: ClassVar[str]

    def __init__(self, **options: Any):
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise UsageError(sentence(type(self), error.errors()[0], type(self).__name__)) from None

    def plain(self) -> dict[str, Any]:
        """Return the step as a recipe has it."""
        return {self.step: self.model_dump(mode="json", exclude_none=True)}


class PruningConfig(OptimumStep, PruneSection):
    """The options of the step `prune`."""

    step = "prune"


class DistillationConfig(OptimumStep, DistillSection):
    """The options of the step `distill`."""

    step = "distill"


class QuantizationConfig(OptimumStep, QuantizeSection):
    """The options of the step `quantize`."""

    step = "quantize"


class CompressionConfig(BaseConfig):
    """A recipe as Optimum stores configurations: `compression_config.json`, in a folder or on the Hub.

    Args:
        steps: what is done, in order: `PruningConfig`, `DistillationConfig`, `QuantizationConfig`, or the steps of a
            recipe in plain values.
        sections: the other sections of a recipe (`student="mobilenet_v2"`, `teacher={"finetune": {"epochs": 3}}`,
            `data={"augmentation": "light"}`, `measure`, `seed`); `Compressor` fills in what model and data are.

    Raises:
        UsageError: there is no such section.
    """

    CONFIG_NAME = "compression_config.json"
    FULL_CONFIGURATION_FILE = "compression_config.json"

    def __init__(self, steps: list[OptimumStep | dict | str] | None = None, **sections: Any):
        sections["steps"] = [step.plain() if isinstance(step, OptimumStep) else step for step in steps or []]
        inherited = {name: sections.pop(name) for name in sections.keys() - Recipe.model_fields.keys()}
        super().__init__(**inherited)
        known = BaseConfig().to_dict().keys() | {"optimum_version", "output_attentions", "_commit_hash"}
        for name in inherited.keys() - known:
            raise UsageError(f"CompressionConfig has no section '{name}'{did_you_mean(name, Recipe.model_fields)}")
        for name, value in sections.items():
            setattr(self, name, value)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> CompressionConfig:
        """Return the configuration that says the same as `recipe`."""
        return cls(**recipe.model_dump(mode="json", exclude_none=True))

    def to_recipe(self, overrides: dict[str, Any] | None = None) -> Recipe:
        """Return the recipe that says the same.

        Args:
            overrides: values by key path, as for `Recipe.load`.

        Raises:
            UsageError: the recipe lacks something, or a value is wrong.
        """
        return Recipe.from_dict(self.sections, overrides)

    @property
    def sections(self) -> dict[str, Any]:
        """The sections of the recipe, as plain values."""
        return {name: getattr(self, name) for name in Recipe.model_fields if name in vars(self)}
