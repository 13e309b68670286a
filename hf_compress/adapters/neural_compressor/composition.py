"""Pruning and distillation in one training."""

from __future__ import annotations

import json
from collections import OrderedDict
from itertools import product
from pathlib import Path
from typing import Any

from neural_compressor.common.base_config import BaseConfig, ComposableConfig, config_registry
from torch import nn

from hf_compress.ground.errors import UsageError
from hf_compress.ground.registry import did_you_mean

PRUNE, DISTILL = "prune", "distill"


class Composition(ComposableConfig):
    """What `PruneConfig(...) + DistillConfig(...)` returns.

    Neural Compressor's own composition ignores global configs, and reads the first of two algorithms twice.

    Raises:
        UsageError: a config of a quantisation is among them, or one algorithm twice.
    """

    def __init__(self, configs: list[BaseConfig]):
        for config in configs:
            if config.name not in (PRUNE, DISTILL):
                raise UsageError(
                    f"{type(config).__name__} cannot share a training with pruning or distillation: "
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

    @classmethod
    def from_json_file(cls, filename: str | Path) -> Composition:
        """Read what `to_json_file` wrote."""
        return cls.from_dict(json.loads(Path(filename).read_text(encoding="utf-8")))

    def expand(self) -> list[Composition]:
        """Return one composition for every combination of the values that `autotune` tries."""
        return [Composition(list(configs)) for configs in product(*[config.expand() for config in self.config_list])]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Composition) and self.config_list == other.config_list
