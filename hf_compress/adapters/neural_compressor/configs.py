"""The configs `PruneConfig`, `DistillConfig` and `QuantizeConfig`, and several as one.

They are recipe sections in Neural Compressor's form.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from neural_compressor.common.base_config import BaseConfig, ComposableConfig, config_registry, register_config
from neural_compressor.common.utils import DEFAULT_WHITE_LIST
from neural_compressor.torch.quantization.config import FRAMEWORK_NAME, TorchBaseConfig
from pydantic import Field
from pydantic_core import to_jsonable_python
from torch import nn

from hf_compress.ground.errors import UsageError, shown
from hf_compress.ground.registry import did_you_mean
from hf_compress.models.load import load
from hf_compress.sections.base import Section, TrainingConfig, validate
from hf_compress.sections.distillation import LossConfig
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.weights import PRUNABLE
from hf_compress.steps.quantization.config import QuantizeSection

PRUNE, DISTILL, QUANTIZE = "prune", "distill", "quantize"
WhiteList = str | list[str | Callable] | None
GRANULARITY = PruneSection.model_fields["granularity"]


class PruneOptions(PruneSection):
    """The options of the step `prune`, with what differs where the training loop is not a recipe's."""

    amount: float = Field(0.5, ge=0, lt=1, description="Fraction that is gone at the end; 0 leaves layers alone.")
    granularity: GRANULARITY.annotation = "weight"
    rounds: int = Field(1, ge=1, description="Prune in so many equal rounds, with training between.")


def register(name: str) -> Callable[[type], type]:
    """Return a decorator that registers a config; Neural Compressor itself overwrites a name that is taken.

    Raises:
        UsageError: it is.
    """
    if name in config_registry.get_cls_configs()[FRAMEWORK_NAME]:
        raise UsageError(f"Neural Compressor has an algorithm '{name}' already, registered by another package")
    return register_config(framework_name=FRAMEWORK_NAME, algo_name=name)


class _FromFile:
    @classmethod
    def from_json_file(cls, filename: str | Path) -> Self:
        """Read what `to_json_file` wrote."""
        return cls.from_dict(json.loads(Path(filename).read_text(encoding="utf-8")))


class StepConfig(_FromFile, TorchBaseConfig):
    """A section of a recipe as a config of Neural Compressor: its parameters are the fields of the section.

    Attributes:
        options: the section.
        of_a_recipe: fields that mean the training loop of a recipe, which is the user's own here.
    """

    options: ClassVar[type[Section]]
    of_a_recipe: ClassVar[frozenset[str]]

    def __init__(self, white_list: WhiteList = DEFAULT_WHITE_LIST, **parameters: Any):
        super().__init__(white_list=white_list)
        for name, value in parameters.items():
            key = f"'{type(self).__name__}.{name}'"
            if name in self.of_a_recipe:
                raise UsageError(f"{key} belongs to the training of a recipe: here the training loop is your own")
            if name not in self.params_list:
                raise UsageError(f"unknown key {key} (value {shown(value)}){did_you_mean(name, self.params_list)}")
        for name, default in self._defaults().items():
            setattr(self, name, parameters.get(name, default))
        if not self._tried():
            self.section()
        self._post_init()

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        fields = cls.options.model_fields
        return {
            name: fields[name].get_default(call_default_factory=True) for name in fields if name not in cls.of_a_recipe
        }

    @classmethod
    def _generate_params_list(cls) -> list[str]:
        return [*cls._defaults(), "white_list"]

    def get_params_dict(self) -> dict[str, Any]:
        """Return the parameters: they build an equal config."""
        return {name: getattr(self, name) for name in self._defaults()}

    def section(self) -> Section:
        """Return the recipe section.

        Raises:
            UsageError: a value is wrong, or still a list of values for `autotune`.
        """
        values = {name: value for name, value in self.get_params_dict().items() if name in self.options.model_fields}
        return validate(self.options, values, type(self).__name__)

    def _tried(self) -> dict[str, list[Any]]:
        """Return the parameters that are lists of values to try, not lists by nature."""
        defaults = self._defaults()
        return {
            name: value
            for name, value in self.get_params_dict().items()
            if isinstance(value, list) and not isinstance(defaults[name], list)
        }

    def expand(self) -> list[Self]:
        """Return one config for every combination of the values that `autotune` tries."""
        expanded, tried = [], self._tried()
        for values in product(*tried.values()):
            chosen = self.get_params_dict() | dict(zip(tried, values, strict=True))
            config = type(self)(**chosen, white_list=self.white_list)
            config.local_config = self.local_config | config.local_config
            expanded.append(config)
        return expanded

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `from_dict` reads and JSON can hold; of a teacher, its name or path."""
        parameters = to_jsonable_python(self.get_params_dict(), fallback=_place)
        if self.white_list != DEFAULT_WHITE_LIST and self.white_list is not None:
            parameters["white_list"] = [_to_key(name) for name in self.white_list]
        if not self.local_config:
            return parameters
        local = {_to_key(name): config.to_dict() for name, config in self.local_config.items()}
        return {"local": local, "global": parameters}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any]) -> Self:
        """Build a config from what `to_dict` returned, or from Neural Compressor's own flat form."""
        if not {"global", "local"} & config_dict.keys():
            config_dict = {"global": config_dict}
        parameters = dict(config_dict.get("global", {}))
        if isinstance(parameters.get("white_list"), list):
            parameters["white_list"] = [_from_key(key) for key in parameters["white_list"]]
        config = cls(**parameters)
        for key, values in config_dict.get("local", {}).items():
            config.local_config[_from_key(key)] = cls(**values)
        return config

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._identity() == other._identity()

    def _identity(self) -> tuple[Any, ...]:
        local = {name: config.get_params_dict() for name, config in self.local_config.items()}
        return self.get_params_dict(), self.white_list, local

    def __add__(self, other: BaseConfig) -> BaseConfig:
        """Merge the local configs of one kind, or return both kinds for one training."""
        return super().__add__(other) if isinstance(other, type(self)) else Composition([self, other])

    @classmethod
    def register_supported_configs(cls) -> None:
        """Neural Compressor asks for this method, and reads nothing of it."""


@register(PRUNE)
class PruneConfig(StepConfig):
    """Pruning; the parameters are the options of the recipe step `prune` but for those of a recipe's rounds.

    Granularity `channel` removes channels of a transformers image classifier; `prepare` and `quantize` need
    `example_inputs` for it, one image of shape (1, 3, height, width). Layers compete in the scope `global` where they
    share a config.

    Args:
        amount: fraction that is gone at the end: weights, or channels of each group; 0 leaves layers alone.
        granularity: `weight` unless given.
        rounds: prune in so many equal rounds, with training between: `run_fn` is called once a round; an own loop
            goes on with `next_round`.
        white_list: names (regular expressions, matched from the start) or types of the only layers to prune.

    Raises:
        UsageError: a name or a value is wrong.
    """

    name = PRUNE
    options = PruneOptions
    of_a_recipe = frozenset({"iterative", "target", "budget", "max_drop", "recovery", "repair", "calibration"})

    @staticmethod
    def get_model_info(model: nn.Module) -> list[tuple[str, str]]:
        """Return name and type of every layer that can be pruned."""
        layers = [(name, module) for name, module in model.named_modules() if isinstance(module, PRUNABLE)]
        return [(name, type(layer).__name__) for name, layer in layers]

    def to_config_mapping(
        self, config_list: list[BaseConfig] | None = None, model_info: list[tuple[str, str]] | None = None
    ) -> OrderedDict[tuple[str, str], PruneConfig]:
        """Return the config of every layer that is pruned.

        Raises:
            UsageError: no layer, or none for a local config, is there.
        """
        mapping = super().to_config_mapping(config_list, model_info)
        layers = f"its layers start with {', '.join(f'{name} ({kind})' for name, kind in model_info[:3]) or 'none'}"
        for chosen in self.local_config:
            if not any(_matches(chosen, name, kind) for name, kind in model_info):
                raise UsageError(f"'{_to_key(chosen)}' matches no layer of the model that can be pruned; {layers}")
        if not any(config.amount for config in mapping.values()):
            raise UsageError(f"PruneConfig prunes no layer of the model; {layers}")
        return mapping

    @classmethod
    def get_config_set_for_tuning(cls) -> Self:
        """Return the amounts that `autotune` tries, the smallest model first."""
        return cls(amount=[0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


@register(DISTILL)
class DistillConfig(StepConfig):
    """Distillation; the parameters are the losses of the recipe step `distill` and their options.

    The teacher sees the student's inputs. Their classes match by the names in transformers' configs, whatever the
    order; where one side has mere numbers (`LABEL_0`), by number. See `distillation_loss` for how the loss reaches a
    training loop. Losses that compare layers need `example_inputs` in `prepare` and `quantize`; what they train beside
    the model is among its parameters until `convert`.

    Args:
        teacher_model: the teacher, or its Hub id or folder.

    Raises:
        UsageError: a name or a value is wrong.
    """

    name = DISTILL
    options = LossConfig
    of_a_recipe = frozenset(TrainingConfig.model_fields)

    def __init__(self, teacher_model: nn.Module | str | None = None, **parameters: Any):
        super().__init__(teacher_model=teacher_model, **parameters)

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        return {"teacher_model": None} | super()._defaults()

    def teacher(self) -> nn.Module:
        """Return the teacher, loaded where it is a name.

        Raises:
            UsageError: there is none.
        """
        if self.teacher_model is None:
            raise UsageError("DistillConfig has no teacher: set teacher_model to a model, a Hub id or a folder")
        return load(self.teacher_model).model if isinstance(self.teacher_model, str) else self.teacher_model

    @staticmethod
    def get_model_info(model: nn.Module) -> list[tuple[str, str]]:
        """Return one entry for the whole model, which no layer of another algorithm has."""
        return [("", type(model).__name__)]

    @classmethod
    def get_config_set_for_tuning(cls) -> None:
        """There is no set without a teacher."""


@register(QUANTIZE)
class QuantizeConfig(StepConfig):
    """Training for int8, as by the recipe step `quantize`, whose parameters all belong to the training of a recipe.

    `prepare` and `quantize` need `example_inputs`: images of shape (batch, 3, height, width), which set the first
    ranges of the activations. The loss is your own, or that of a `DistillConfig` beside it.

    Raises:
        UsageError: there are parameters.
    """

    name = QUANTIZE
    options = QuantizeSection
    of_a_recipe = frozenset(QuantizeSection.model_fields)

    def __init__(self, white_list: WhiteList = DEFAULT_WHITE_LIST, **parameters: Any):
        super().__init__(white_list=white_list, **parameters)
        if white_list not in (DEFAULT_WHITE_LIST, None):
            raise UsageError("int8 is simulated in every layer: leave out 'QuantizeConfig.white_list'")

    @staticmethod
    def get_model_info(model: nn.Module) -> list[tuple[str, str]]:
        """Return one entry for the whole model, which no other algorithm has."""
        return [("", "int8")]

    @classmethod
    def get_config_set_for_tuning(cls) -> None:
        """There is nothing to choose."""


class Composition(_FromFile, ComposableConfig):
    """What `PruneConfig(...) + DistillConfig(...) + QuantizeConfig()` returns.

    Neural Compressor's own composition ignores global configs, and reads the first of two algorithms twice.

    Raises:
        UsageError: a config of a quantisation is among them, or one algorithm twice.
    """

    def __init__(self, configs: list[BaseConfig]):
        for config in configs:
            if config.name not in (PRUNE, DISTILL, QUANTIZE):
                raise UsageError(
                    f"{type(config).__name__} cannot share a training with pruning, distillation or int8: "
                    "convert the model first, then quantize the result"
                )
        if len({config.name for config in configs}) < len(configs):
            raise UsageError("a composition takes each algorithm once: use set_local for single layers")
        super().__init__(configs)

    def __add__(self, other: BaseConfig) -> Composition:
        return Composition([*self.config_list, *(other.config_list if isinstance(other, Composition) else [other])])

    def to_config_mapping(
        self, config_list: list[BaseConfig] | None = None, model_info: dict[str, Any] | None = None
    ) -> OrderedDict:
        """Return the mappings of all algorithms in one; their keys differ."""
        mapping: OrderedDict = OrderedDict()
        for config in self.config_list:
            mapping |= config.to_config_mapping(model_info=model_info[config.name])
        return mapping

    def get_model_info(self, model: nn.Module) -> dict[str, Any]:
        return {config.name: config.get_model_info(model) for config in self.config_list}

    @classmethod
    def from_dict(cls, config_dict: dict[str, dict]) -> Composition:
        """Build from `{"prune": {...}, "distill": {...}}`.

        Raises:
            UsageError: there is no such algorithm.
        """
        classes = config_registry.get_cls_configs()["torch"]
        for name in config_dict:
            if name not in classes:
                raise UsageError(f"unknown algorithm '{name}'{did_you_mean(name, classes)}")
        return cls([classes[name].from_dict(values) for name, values in config_dict.items()])

    def expand(self) -> list[Composition]:
        """Return one composition for every combination of the values that `autotune` tries."""
        return [Composition(list(configs)) for configs in product(*[config.expand() for config in self.config_list])]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Composition) and self.config_list == other.config_list


def _matches(chosen: str | Callable, name: str, kind: str) -> bool:
    """Neural Compressor's rule: types by their name, names from the start by regular expressions."""
    return bool(re.match(chosen, name)) if isinstance(chosen, str) else chosen.__name__ == kind


def _place(model: nn.Module) -> str | None:
    return getattr(model, "name_or_path", None) or None


def _to_key(name: str | Callable) -> str:
    """A layer's type is written as `torch.nn.Linear`."""
    return name if isinstance(name, str) else f"torch.nn.{name.__name__}"


def _from_key(key: str) -> str | Callable:
    return getattr(torch.nn, key.removeprefix("torch.nn.")) if key.startswith("torch.nn.") else key
