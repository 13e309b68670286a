"""The pruning of a model between `prepare` and `convert`."""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_compress.adapters.neural_compressor.configs import PruneConfig
from hf_compress.ground.errors import UsageError
from hf_compress.steps.pruning.allocate.rounding import fastest_multiple
from hf_compress.steps.pruning.loop import Pruner, build_pruner, excluded_layers
from hf_compress.steps.pruning.remove.weights import PRUNABLE

STATE, MASK = "hf_compress_pruning", "hf_compress_mask"


class Pruning:
    """Prunes a model in rounds and keeps its zeros while it is trained.

    Masks are buffers of the layers that no state dict shows; every forward pass of the model applies them first, so
    that whatever the optimizer did to a pruned weight is undone before it counts.
    """

    def __init__(self, model: nn.Module, configs: dict[tuple[str, str], PruneConfig], image: Tensor | None):
        if hasattr(model, STATE):
            raise UsageError("the model is prepared for pruning already: convert it first")
        alike: dict[str, list[tuple[str, PruneConfig]]] = defaultdict(list)
        for (name, _), config in configs.items():
            if config.amount:
                alike[repr(config.get_params_dict())].append((name, config))
        self.parts: list[tuple[PruneConfig, Pruner]] = []  # of layers that share a config
        for layers in alike.values():
            config = layers[-1][1]
            self.parts.append((config, _pruner(model, config, [name for name, _ in layers], image)))
        self.rounds = max(config.rounds for config, _ in self.parts)
        self.round = 0
        self.hook = model.register_forward_pre_hook(_hold_zeros)
        setattr(model, STATE, self)

    def next_round(self, model: nn.Module) -> bool:
        """Prune the next round's share; False when all rounds were done before."""
        if self.round == self.rounds:
            return False
        self.round += 1
        for config, pruner in self.parts:
            pruner.prune(model, config.amount * min(1.0, self.round / config.rounds))
            if config.granularity != "channel":
                for name in pruner.parameter_names:
                    layer = model.get_submodule(name.removesuffix(".weight"))
                    layer.register_buffer(MASK, layer.weight.detach() != 0, persistent=False)
        return True

    def finish(self, model: nn.Module) -> None:
        """Leave an ordinary model.

        Raises:
            UsageError: rounds are missing.
        """
        if self.round < self.rounds:
            raise UsageError(
                f"{self.round} of {self.rounds} pruning rounds are done: call next_round(model), train, then convert"
            )
        _hold_zeros(model)
        self.hook.remove()
        for module in model.modules():
            if MASK in module._buffers:
                delattr(module, MASK)
        delattr(model, STATE)


def pruning_of(model: nn.Module) -> Pruning | None:
    """Return the pruning in progress."""
    return getattr(model, STATE, None)


def _pruner(model: nn.Module, config: PruneConfig, names: list[str], image: Tensor | None) -> Pruner:
    section = config.section()
    others = {name for name, module in model.named_modules() if isinstance(module, PRUNABLE)} - set(names)
    others |= excluded_layers(model, section.exclude)
    if section.granularity == "block":
        raise UsageError(
            "granularity 'block' goes by what the model answers to images, which only the step 'prune' of a recipe "
            "has: use granularity 'channel' or 'weight' here"
        )
    if section.granularity == "channel":
        if not isinstance(model, PreTrainedModel):
            raise UsageError(
                f"granularity 'channel' needs an image classifier of transformers, not {type(model).__name__}: "
                "use granularity 'weight'"
            )
        if image is None or image.dim() != 4:
            raise UsageError(
                "granularity 'channel' needs one image to follow the channels: pass example_inputs of shape "
                "(1, 3, height, width)"
            )
        if section.round_to == "auto":
            section = section.model_copy(update={"round_to": fastest_multiple(model, image)[0]})
    return build_pruner(model, image, section, others)


def _hold_zeros(model: nn.Module, inputs: Any = None) -> None:
    with torch.no_grad():
        for module in model.modules():
            mask = module._buffers.get(MASK)
            if mask is not None:
                module.weight.data.masked_fill_(~mask, 0)
