"""What channel removal changed in a model, as plain data: recorded from one model, applied to another."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hf_compress.checkpoint.rewrites import apply_rewrites, record_rewrites
from hf_compress.ground.errors import RunError
from hf_compress.ground.tensors import own_tensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Shapes = dict[str, dict[str, dict[str, Any]]]


def record_shapes(model: PreTrainedModel) -> Shapes:
    """Return how `model` differs from what its config and its rewrites build.

    Returns:
        `{module name: {"attributes": {"out_channels": 24, ...}, "tensors": {"weight": [24, None, None, None], ...}}}`
        for every module with another tensor shape, or with another number such as `num_heads`; empty for an unpruned
        model. A length that pruning left is None: it is the config's, as the number of labels must be.
    """
    return changes_between(unpruned(model), model)


def changes_between(unpruned: nn.Module, pruned: nn.Module) -> Shapes:
    """Return how `pruned` differs from the module that it was: see `record_shapes`."""
    reference = dict(unpruned.named_modules())
    shapes: Shapes = {}
    for name, module in pruned.named_modules():
        original = reference[name]
        before = {key: tensor.shape for key, tensor in own_tensors(original)}
        tensors = {
            key: _changed_lengths(tensor.shape, before.get(key))
            for key, tensor in own_tensors(module)
            if tensor.shape != before.get(key) and not _resizes_itself(module, key, before)
        }
        attributes = {
            key: value
            for key, value in vars(module).items()
            if _is_size(value) and _is_size(vars(original).get(key)) and value != vars(original)[key]
        }
        if tensors or attributes:
            shapes[name] = {"attributes": attributes, "tensors": tensors}
    return shapes if any(change["tensors"] for change in shapes.values()) else {}


def _resizes_itself(module: nn.Module, key: str, before: dict[str, torch.Size]) -> bool:
    """Whether a buffer grew, as pruning never makes it: ConViT computes positions anew for images of another size."""
    grew = key in before and not _is_pruned_shape(list(dict(own_tensors(module))[key].shape), before[key])
    return grew and key in module._non_persistent_buffers_set


def is_well_formed(shapes: Any) -> bool:
    """Return whether `shapes` has the form that `record_shapes` gives."""
    return isinstance(shapes, dict) and all(
        isinstance(change, dict)
        and change.keys() == {"attributes", "tensors"}
        and isinstance(change["attributes"], dict)
        and isinstance(change["tensors"], dict)
        and all(isinstance(shape, list) for shape in change["tensors"].values())
        for change in shapes.values()
    )


def apply_shapes(model: nn.Module, shapes: Shapes, file: str = "config.json") -> None:
    """Resize the tensors of a freshly built model; a loader gives them their values next.

    Args:
        file: where the shapes are from, for errors.

    Raises:
        RunError: the model has no such module, tensor or number, or pruning cannot have led to such a shape; the
            checkpoint belongs to another architecture, or was changed.
    """
    for name, change in shapes.items():
        try:
            module = model.get_submodule(name)
        except AttributeError:
            raise RunError(f"{file} records shapes for '{name}', which {type(model).__name__} lacks") from None
        for key, value in change["attributes"].items():
            old = vars(module).get(key)
            if not _is_size(old) or not _is_size(value):
                raise RunError(f"{file} sets '{key}' of layer '{name}' to {value!r}, which is no size there")
            setattr(module, key, value if isinstance(value, int) else type(old)(value))
        for key, shape in change["tensors"].items():
            _resize(module, name, key, shape, file)


def _resize(module: nn.Module, name: str, key: str, shape: list[int], file: str) -> None:
    old = dict(own_tensors(module)).get(key)
    if old is None or not _is_pruned_shape(shape, old.shape):
        was = "which it lacks" if old is None else f"but pruning only makes its {list(old.shape)} smaller"
        raise RunError(f"{file} records shape {shape} for '{key}' of layer '{name}', {was}: the file was changed")
    new = old.detach()[tuple(slice(length) for length in shape)].clone(memory_format=torch.contiguous_format)
    if isinstance(old, nn.Parameter):
        module.register_parameter(key, nn.Parameter(new, requires_grad=old.requires_grad))
    else:
        module.register_buffer(key, new, persistent=key not in module._non_persistent_buffers_set)


def _is_pruned_shape(shape: list[int], unpruned: torch.Size) -> bool:
    return len(shape) == len(unpruned) and all(
        length is None or (type(length) is int and 0 < length <= most)
        for length, most in zip(shape, unpruned, strict=True)
    )


def unpruned(model: PreTrainedModel) -> PreTrainedModel:
    """Return what the config of `model` and its rewrites build, without values (on the meta device)."""
    with torch.device("meta"):
        built = type(model)(copy.deepcopy(model.config))
    apply_rewrites(built, record_rewrites(model))
    return built


def _changed_lengths(shape: torch.Size, original: torch.Size | None) -> list[int | None]:
    if original is None or len(original) != len(shape):
        return list(shape)
    return [None if now == before else now for now, before in zip(shape, original, strict=True)]


def _is_size(value: Any) -> bool:
    """Whether a value is a plain integer, or a tuple or list of them."""
    if isinstance(value, (tuple, list)):
        return bool(value) and all(type(item) is int for item in value)
    return type(value) is int
