"""Neural Compressor's calls, with models left ordinary where nothing was quantized."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from neural_compressor.torch import quantization
from torch import Tensor, nn

from hf_compress.adapters.neural_compressor.distillation import distillation_of
from hf_compress.adapters.neural_compressor.pruning import pruning_of
from hf_compress.ground.errors import UsageError

LEFT_BEHIND = ("is_quantized", "is_prepared", "quant_config", "example_inputs", "dynamic_shapes", "_exported")


def _ordinary(call: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Neural Compressor marks every model as quantized, which the Trainer then refuses to train; undo that."""

    @wraps(call)
    def called(*args: Any, **kwargs: Any) -> nn.Module:
        model = call(*args, **kwargs)
        if isinstance(model, nn.Module) and not hasattr(model, "qconfig"):
            for name in LEFT_BEHIND:
                vars(model).pop(name, None)
        return model

    return called


prepare = quantization.prepare
convert = _ordinary(quantization.convert)
quantize = _ordinary(quantization.quantize)
autotune = _ordinary(quantization.autotune)


def next_round(model: nn.Module) -> bool:
    """Prune a prepared model further, by one of the `rounds` of its `PruneConfig`.

    Returns:
        False when all rounds were done before: `convert` comes next.

    Raises:
        UsageError: the model is not prepared for pruning.
    """
    pruning = pruning_of(model)
    if pruning is None:
        raise UsageError("the model is not prepared for pruning: prepare(model, PruneConfig(...)) comes first")
    return pruning.next_round(model)


def distillation_loss(model: nn.Module, outputs: Any, labels: Tensor | None = None) -> Tensor:
    """Return the distillation loss of the batch that a prepared model has just seen in train mode.

    A transformers model that is given the labels, or whose loss needs none, has it in `outputs.loss` already.

    Args:
        model: prepared with a `DistillConfig`.
        outputs: what the model returned: logits of shape (batch, classes), or an output of transformers.
        labels: shape (batch,); `mse`, `kl` and `dist` need none.

    Raises:
        UsageError: the model is not prepared for distillation, or labels are missing.
    """
    distillation = distillation_of(model)
    if distillation is None:
        raise UsageError("the model is not prepared for distillation: prepare(model, DistillConfig(...)) comes first")
    return distillation.loss(outputs, labels)
