"""What channel removal changed in a model, as plain data: recorded from one model, applied to another."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Shapes = dict[str, dict[str, dict[str, Any]]]


def record_shapes(model: PreTrainedModel) -> Shapes:
    """Return how `model` differs from what its config builds.

    Returns:
        `{module name: {"attributes": {"out_channels": 24, ...}, "tensors": {"weight": [24, 3, 3, 3], ...}}}` for every
        module with another tensor shape, or with another number such as `num_heads`; empty for an unpruned model.
    """
    reference = dict(unpruned(model).named_modules())
    shapes: Shapes = {}
    for name, module in model.named_modules():
        original = reference[name]
        tensors = {
            key: list(tensor.shape) for key, tensor in _tensors(module) if tensor.shape != _shape(original, key)
        }
        attributes = {
            key: value
            for key, value in vars(module).items()
            if _is_size(value) and _is_size(vars(original).get(key)) and value != vars(original)[key]
        }
        if tensors or attributes:
            shapes[name] = {"attributes": attributes, "tensors": tensors}
    return shapes if any(change["tensors"] for change in shapes.values()) else {}


def apply_shapes(model: nn.Module, shapes: Shapes) -> None:
    """Resize the tensors of a freshly built model, without values: a loader fills them next.

    Raises:
        ValueError: the model has no such module, tensor or number; the checkpoint belongs to another architecture.
    """
    for name, change in shapes.items():
        try:
            module = model.get_submodule(name)
        except AttributeError:
            raise ValueError(
                f"the checkpoint records shapes for '{name}', which {type(model).__name__} lacks"
            ) from None
        for key, value in change["attributes"].items():
            old = vars(module).get(key)
            if not _is_size(old) or not _is_size(value):
                raise ValueError(f"the checkpoint records '{key}' of '{name}', which is no size there")
            setattr(module, key, value if isinstance(value, int) else type(old)(value))
        for key, shape in change["tensors"].items():
            old = dict(_tensors(module)).get(key)
            if old is None:
                raise ValueError(f"the checkpoint records the shape of '{key}' of '{name}', which has no such tensor")
            new = torch.empty(shape, dtype=old.dtype, device=old.device)
            if isinstance(old, nn.Parameter):
                module.register_parameter(key, nn.Parameter(new, requires_grad=old.requires_grad))
            else:
                module.register_buffer(key, new, persistent=key not in module._non_persistent_buffers_set)


def unpruned(model: PreTrainedModel) -> PreTrainedModel:
    """Return what the config of `model` builds, without values (on the meta device)."""
    config = copy.deepcopy(model.config)
    with torch.device("meta"):
        return type(model)(config)


def _tensors(module: nn.Module):
    yield from module.named_parameters(recurse=False)
    yield from module.named_buffers(recurse=False)


def _shape(module: nn.Module, key: str) -> torch.Size | None:
    tensor = getattr(module, key, None)
    return None if tensor is None else tensor.shape


def _is_size(value: Any) -> bool:
    """Whether a value is a plain integer, or a tuple or list of them."""
    if isinstance(value, (tuple, list)):
        return bool(value) and all(type(item) is int for item in value)
    return type(value) is int
