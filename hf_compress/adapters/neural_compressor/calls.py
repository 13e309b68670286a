"""Algorithms that Neural Compressor calls, and its own calls, which leave models ordinary that are not quantized."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from neural_compressor.common.utils import Mode
from neural_compressor.torch import quantization
from neural_compressor.torch.utils import register_algo
from torch import Tensor, nn

from hf_compress.adapters.neural_compressor.configs import DISTILL, PRUNE, QUANTIZE, StepConfig
from hf_compress.adapters.neural_compressor.distillation import Distillation, distillation_of
from hf_compress.adapters.neural_compressor.pruning import Pruning, pruning_of
from hf_compress.adapters.neural_compressor.quantizing import simulate, simulation_of, stop
from hf_compress.ground.errors import UsageError
from hf_compress.sections.distillation import LOSSES

LEFT_BEHIND = ("is_quantized", "is_prepared", "quant_config", "example_inputs", "dynamic_shapes", "_exported")
Configs = dict[tuple[str, str], StepConfig]


@register_algo(DISTILL)
def distill_entry(
    model: nn.Module,
    configs_mapping: Configs,
    mode: Mode,
    run_fn: Callable | None = None,
    run_args: Any = None,
    example_inputs: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """Give the model its teacher, and train it in mode quantize, where no other algorithm comes next."""
    if mode == Mode.CONVERT:
        if distillation := distillation_of(model):
            distillation.finish(model)
        return model
    (config,) = _only(configs_mapping, DISTILL).values()
    projects = any(LOSSES.get(term.loss).projects for term in config.section().terms)
    if projects and _removes_channels(configs_mapping):
        raise UsageError(
            "channels that are removed leave layers that no projector fits: convert the pruned model first, then "
            "distil it, or compare layers by the loss 'attention'"
        )
    Distillation(model, config, _input(example_inputs))
    if mode == Mode.QUANTIZE and run_fn is None:
        raise UsageError("distillation needs training: pass run_fn, a function that trains the model it is given")
    if mode == Mode.QUANTIZE and not _only(configs_mapping, QUANTIZE, PRUNE):
        _train(model, run_fn, run_args)
        _finish(model)
    return model


@register_algo(QUANTIZE)
def quantize_entry(
    model: nn.Module,
    configs_mapping: Configs,
    mode: Mode,
    run_fn: Callable | None = None,
    run_args: Any = None,
    example_inputs: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """Simulate int8 in the model, and train it in mode quantize, where it is not pruned in the same training."""
    if mode == Mode.CONVERT:
        stop(model)
        return model
    if _removes_channels(configs_mapping):
        raise UsageError("ranges are those of channels: convert the pruned model first, then train it for int8")
    if mode == Mode.QUANTIZE and run_fn is None:
        raise UsageError("int8 needs training: pass run_fn, a function that trains the model it is given")
    simulate(model, _input(example_inputs))
    if mode == Mode.QUANTIZE and not _only(configs_mapping, PRUNE):
        _train(model, run_fn, run_args)
        _finish(model)
    return model


@register_algo(PRUNE)
def prune_entry(
    model: nn.Module,
    configs_mapping: Configs,
    mode: Mode,
    run_fn: Callable | None = None,
    run_args: Any = None,
    example_inputs: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """Prune the first round in mode prepare, all of them, with training after each, in mode quantize."""
    pruning = pruning_of(model) if mode == Mode.CONVERT else None
    if pruning is None:
        pruning = Pruning(model, _only(configs_mapping, PRUNE), _input(example_inputs))
        pruning.next_round(model)
    if mode == Mode.PREPARE:
        return model
    if mode == Mode.QUANTIZE:
        _train(model, run_fn, run_args)
        while pruning.next_round(model):
            _train(model, run_fn, run_args)
        _finish(model)
    pruning.finish(model)
    return model


def _finish(model: nn.Module) -> None:
    """Take teacher and simulation from a model."""
    if distillation := distillation_of(model):
        distillation.finish(model)
    if simulation_of(model):
        stop(model)


def _removes_channels(configs_mapping: Configs) -> bool:
    return any(config.granularity == "channel" for config in _only(configs_mapping, PRUNE).values())


def _only(configs_mapping: Configs, *algorithms: str) -> Configs:
    return {key: config for key, config in configs_mapping.items() if config.name in algorithms}


def _input(example_inputs: Any) -> Tensor | None:
    """Return the images of `example_inputs`, which may stand alone, in a tuple, or in a dict by name."""
    if isinstance(example_inputs, dict):
        example_inputs = example_inputs.get("pixel_values")
    elif isinstance(example_inputs, tuple | list):
        example_inputs = example_inputs[0]
    return example_inputs if isinstance(example_inputs, Tensor) else None


def _train(model: nn.Module, run_fn: Callable | None, run_args: Any) -> None:
    if run_fn is not None:
        run_fn(model, *(run_args or ()))


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
