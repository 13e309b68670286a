"""Everything that a model says, whatever it is for."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hf_compress.ground.queries import BOXES

WHOLE = "output"
FOR_LOSSES = ("auxiliary_", "enc_", "init", "intermediate_")
"""Of a detector's output, how the names begin of what its own loss alone reads."""


def output_tensors(output: Any, name: str = WHOLE) -> dict[str, Tensor]:
    """Return all floating tensors of a model's output, by name, in the order of the output.

    Args:
        output: a tensor, or nested mappings (as transformers' `ModelOutput`), tuples and lists of such; or an object
            with such attributes, which custom code may return.
        name: of a tensor that stands by itself. Parts are `logits`, or `hidden_states.0`. What only the loss of a
            detector reads is left out.
    """
    if isinstance(output, Tensor):
        return {name: output} if output.is_floating_point() else {}
    if isinstance(output, Mapping):
        parts = ((key, part) for key, part in output.items() if BOXES not in output or not key.startswith(FOR_LOSSES))
    elif isinstance(output, tuple | list):
        parts = ((f"{name}.{index}", part) for index, part in enumerate(output))
    elif name == WHOLE and hasattr(output, "__dict__"):
        parts = vars(output).items()
    else:
        return {}
    return {key: tensor for part_name, part in parts for key, tensor in output_tensors(part, part_name).items()}


def deployed_tensors(output: Any) -> dict[str, Tensor]:
    """Return what a file for a runtime gives of a model's output: of a detector logits and boxes, of others all."""
    tensors = output_tensors(output)
    return {name: tensors[name] for name in ("logits", BOXES)} if BOXES in tensors else tensors


@torch.no_grad()
def outputs_of(model: nn.Module, batches: Iterable[Tensor]) -> dict[str, Tensor]:
    """Return all outputs of `model` for batches of images, by name, the images along the first dimension.

    Args:
        batches: each of shape (batch, 3, height, width).
    """
    said = [output_tensors(model(pixel_values=batch)) for batch in batches]
    return {name: torch.cat([one[name] for one in said]) for name in said[0]}


def in_rows(outputs: dict[str, Tensor]) -> Tensor:
    """Return all numbers of outputs, shape (images, numbers an image)."""
    return torch.cat([tensor.flatten(1) for tensor in outputs.values()], dim=1)


def output_error(model: nn.Module, batches: Iterable[Tensor], expected: Tensor) -> float:
    """Return the mean squared difference of all outputs from the expected ones, relative to the variance of these.

    Args:
        batches: images, each of shape (batch, 3, height, width).
        expected: shape (images, numbers an image), in float64, see `in_rows`.
    """
    return error_by_variance(in_rows(outputs_of(model, batches)).double(), expected)


def error_by_variance(said: Tensor, expected: Tensor) -> float:
    """Return the mean squared difference of `said` from `expected`, relative to the variance of that over the images.

    Args:
        said, expected: shape (images, numbers an image), in float64, see `in_rows`.
    """
    return float((said - expected).square().mean() / (expected - expected.mean(0)).square().mean().clamp_min(1e-12))
