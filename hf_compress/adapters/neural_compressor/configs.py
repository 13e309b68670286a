"""The configs `PruneConfig` and `DistillConfig`: recipe sections in Neural Compressor's form.

The annotations of their parameters are read at run time (`autotune` asks whether a value is a list of them), hence no
`from __future__ import annotations` here.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Optional, Self, Union

import torch
from neural_compressor.common.base_config import BaseConfig, config_registry, register_config
from neural_compressor.common.utils import DEFAULT_WHITE_LIST
from neural_compressor.torch.quantization.config import FRAMEWORK_NAME, OperatorConfig, TorchBaseConfig
from torch import nn

from hf_compress.adapters.neural_compressor.composition import DISTILL, PRUNE, Composition
from hf_compress.config import Section, validate
from hf_compress.errors import UsageError
from hf_compress.steps.distillation.config import LOSSES, LossConfig
from hf_compress.steps.pruning.config import PruneConfig as PruneSection
from hf_compress.steps.pruning.remove.weights import PRUNABLE

WhiteList = Union[str, list[Union[str, Callable]], None]  # noqa: UP007  (`str | Callable` is no annotation)


def register(name: str) -> Callable[[type], type]:
    """Return a decorator that registers a config; Neural Compressor itself overwrites a name that is taken.

    Raises:
        UsageError: it is.
    """
    if name in config_registry.get_cls_configs()[FRAMEWORK_NAME]:
        raise UsageError(f"Neural Compressor has an algorithm '{name}' already, registered by another package")
    return register_config(framework_name=FRAMEWORK_NAME, algo_name=name)


class StepConfig(TorchBaseConfig):
    """A section of a recipe as a config of Neural Compressor."""

    supported_configs: ClassVar[list[OperatorConfig]] = []

    def __init__(self, parameters: dict[str, Any], white_list: WhiteList):
        super().__init__(white_list=white_list)
        for name in self._own_parameters():
            setattr(self, name, parameters[name])
        if not any(isinstance(value, list) for value in self.get_params_dict().values()):
            self.section()
        self._post_init()

    def _own_parameters(self) -> list[str]:
        return [name for name in self.params_list if name != "white_list"]

    def get_params_dict(self) -> dict[str, Any]:
        """Return the declared parameters: they build an equal config."""
        return {name: getattr(self, name) for name in self._own_parameters()}

    def section(self) -> Section:
        """Return the recipe section.

        Raises:
            UsageError: a value is wrong, or still a list of values for `autotune`.
        """
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `from_dict` reads and JSON can hold."""
        parameters = self._plain_parameters()
        if self.white_list != DEFAULT_WHITE_LIST and self.white_list is not None:
            parameters["white_list"] = [_to_key(name) for name in self.white_list]
        if not self.local_config:
            return parameters
        local = {_to_key(name): config.to_dict() for name, config in self.local_config.items()}
        return {"local": local, "global": parameters}

    def _plain_parameters(self) -> dict[str, Any]:
        return self.get_params_dict()

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

    @classmethod
    def from_json_file(cls, filename: str | Path) -> Self:
        """Read what `to_json_file` wrote."""
        return cls.from_dict(json.loads(Path(filename).read_text(encoding="utf-8")))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._identity() == other._identity()

    def _identity(self) -> tuple[Any, ...]:
        local = {name: config.get_params_dict() for name, config in self.local_config.items()}
        return self.get_params_dict(), self.white_list, local

    def __add__(self, other: BaseConfig) -> BaseConfig:
        """Merge the local configs of one kind, or return both kinds for one training."""
        return super().__add__(other) if isinstance(other, type(self)) else Composition([self, other])


@register(PRUNE)
class PruneConfig(StepConfig):
    """Magnitude pruning; the parameters of the recipe step `prune`.

    Args:
        amount: fraction that is gone at the end: weights, or channels of each group; 0 leaves layers alone.
        granularity: `weight` zeroes weights; `n:m` does so in `pattern`, which alone decides how many; `channel`
            removes channels of a transformers image classifier, for which `prepare` and `quantize` need
            `example_inputs`, one image of shape (1, 3, height, width).
        importance: `l1`, `l2`, `ln` (order `n`), `random`, or a registered name.
        n: order of the norm `ln`.
        pattern: with granularity `n:m`: at most n weights of each m neighbouring inputs are left.
        dim: with granularity `weight`: zero whole slices along this dimension.
        scope: compare importance in a `layer`, or across all (`global`) that share this config.
        rounds: prune in so many equal rounds, with training between: `run_fn` is called once a round; an own loop
            goes on with `next_round`.
        floor: fraction of each layer that always stays.
        round_to: pruned widths are multiples of this (granularity `channel`).
        white_list: names (regular expressions, matched from the start) or types of the only layers to prune.

    Raises:
        UsageError: a value is wrong.
    """

    name = PRUNE

    def __init__(
        self,
        amount: float = 0.5,
        granularity: str = "weight",
        importance: str = "l1",
        n: float = 2.0,
        pattern: str = "2:4",
        dim: Optional[int] = None,  # noqa: UP045  (Neural Compressor wants a typing alias)
        scope: str = "layer",
        rounds: int = 1,
        floor: float = 0.1,
        round_to: int = 8,
        white_list: WhiteList = DEFAULT_WHITE_LIST,
    ):
        super().__init__(locals(), white_list)

    def section(self) -> PruneSection:
        """Return the section of a recipe's `prune` step."""
        values = self.get_params_dict()
        rounds, amount = values.pop("rounds"), values["amount"]
        if not isinstance(rounds, int) or rounds < 1:
            raise UsageError(f"'PruneConfig.rounds' cannot be {rounds!r}: it is a number of rounds, at least 1")
        if amount == 0:
            values.pop("amount")
        return validate(PruneSection, values, "PruneConfig")

    @staticmethod
    def get_model_info(model: nn.Module) -> list[tuple[str, str]]:
        """Return name and type of every layer that can be pruned."""
        layers = [(name, module) for name, module in model.named_modules() if isinstance(module, PRUNABLE)]
        return [(name, type(layer).__name__) for name, layer in layers]

    def to_config_mapping(
        self, config_list: list[BaseConfig] | None = None, model_info: list[tuple[str, str]] | None = None
    ) -> "OrderedDict[tuple[str, str], PruneConfig]":
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
    def register_supported_configs(cls) -> None:
        cls.supported_configs = [OperatorConfig(config=cls(), operators=list(PRUNABLE))]

    @classmethod
    def get_config_set_for_tuning(cls) -> Self:
        """Return the amounts that `autotune` tries, the smallest model first."""
        return cls(amount=[0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])


@register(DISTILL)
class DistillConfig(StepConfig):
    """Distillation; the losses of the recipe step `distill`.

    The teacher sees the student's inputs. Their classes match by the names in transformers' configs, whatever the
    order; where one side has mere numbers (`LABEL_0`), by number. See `distillation_loss` for how the loss reaches a
    training loop.

    Args:
        teacher_model: the teacher, or its Hub id or folder.
        loss: `mse`, `mse_ce`, `kl`, `dkd`, `dist`, or a registered name; no loss that compares layers.
        mse_weight: weight of the distance to the teacher in `mse_ce`.
        ce_weight: weight of the cross-entropy with the labels in `mse_ce`.
        temperature: temperature of `kl`, `dkd` and `dist`.
        alpha, beta, gamma: weights of the parts of `dkd` and `dist`.

    Raises:
        UsageError: a value is wrong.
    """

    name = DISTILL

    def __init__(
        self,
        teacher_model: Union[nn.Module, str, None] = None,  # noqa: UP007
        loss: str = "mse",
        mse_weight: float = 1.0,
        ce_weight: float = 1.0,
        temperature: float = 4.0,
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 1.0,
        white_list: WhiteList = DEFAULT_WHITE_LIST,
    ):
        super().__init__(locals(), white_list)

    def section(self) -> LossConfig:
        """Return the loss of a recipe's `distill` step.

        Raises:
            UsageError: a value is wrong, or the loss compares layers.
        """
        values = self.get_params_dict()
        values.pop("teacher_model")
        if isinstance(self.loss, str) and self.loss in LOSSES and LOSSES.get(self.loss).compares_layers:
            raise UsageError(
                f"'DistillConfig.loss' cannot be '{self.loss}': a training loop of your own would not train what goes "
                "between the layers; use a recipe's step distill, or hf_compress.adapters.optimum.CompressionTrainer"
            )
        return validate(LossConfig, values, "DistillConfig")

    def teacher(self) -> nn.Module:
        """Return the teacher, loaded where it is a name.

        Raises:
            UsageError: there is none.
        """
        if self.teacher_model is None:
            raise UsageError("DistillConfig has no teacher: set teacher_model to a model, a Hub id or a folder")
        if isinstance(self.teacher_model, str):
            from hf_compress.hub.load import load

            return load(self.teacher_model).model
        return self.teacher_model

    def _plain_parameters(self) -> dict[str, Any]:
        """The teacher is written by its name or path; a model without one is left out."""
        parameters = self.get_params_dict()
        if isinstance(self.teacher_model, nn.Module):
            parameters["teacher_model"] = getattr(self.teacher_model, "name_or_path", None) or None
        return parameters

    @staticmethod
    def get_model_info(model: nn.Module) -> list[tuple[str, str]]:
        """Return one entry for the whole model, which no layer of another algorithm has."""
        return [("", type(model).__name__)]

    @classmethod
    def register_supported_configs(cls) -> None:
        cls.supported_configs = [OperatorConfig(config=cls(), operators=[nn.Module])]

    @classmethod
    def get_config_set_for_tuning(cls) -> None:
        """There is no set without a teacher."""


def _matches(chosen: str | Callable, name: str, kind: str) -> bool:
    """Neural Compressor's rule: types by their name, names from the start by regular expressions."""
    return bool(re.match(chosen, name)) if isinstance(chosen, str) else chosen.__name__ == kind


def _to_key(name: str | Callable) -> str:
    """A layer's type is written as `torch.nn.Linear`."""
    return name if isinstance(name, str) else f"torch.nn.{name.__name__}"


def _from_key(key: str) -> str | Callable:
    return getattr(torch.nn, key.removeprefix("torch.nn.")) if key.startswith("torch.nn.") else key
