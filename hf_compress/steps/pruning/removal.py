"""Takes units of groups out of a model, in place, and checks that a group is what it seems to be."""

from __future__ import annotations

import copy
import re
from collections import defaultdict

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_compress.steps.pruning.groups import Group

SIZE_OF_A_HEAD = re.compile(r"(^|_)(attention_)?(head_dim|head_size|key_dim|value_dim)$")
WIDTHS = {
    "out_channels": 0,
    "out_features": 0,
    "in_features": 1,
    "num_features": 0,
    "num_channels": 0,
    "num_embeddings": 0,
    "embedding_dim": 1,
}


def remove(model: nn.Module, groups: list[Group], plan: dict[str, list[int]]) -> None:
    """Remove units from the tensors of `model` and correct the attributes of its modules.

    Args:
        groups: groups of this very model, see `groups.find_groups`.
        plan: the units to remove, by the group's name.
    """
    gone: dict[tuple[str, str], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for group in groups:
        units = plan.get(group.name)
        if not units:
            continue
        for member in group.members:
            axis = member.axis
            gone[axis.module, axis.tensor][axis.dim] += member.indices[units].flatten().tolist()
        _correct_reshapes(model, group, len(units))
    for (name, key), dims in gone.items():
        module = model.get_submodule(name)
        old = getattr(module, key)
        new = old.detach()
        for dim, indices in dims.items():
            keep = torch.ones(new.shape[dim], dtype=torch.bool)
            keep[indices] = False
            new = new.index_select(dim, keep.nonzero().flatten().to(new.device))
        _replace(module, key, new.contiguous())
        _correct_widths(module, key, old.shape)


def _replace(module: nn.Module, key: str, value: Tensor) -> None:
    old = getattr(module, key)
    if isinstance(old, nn.Parameter):
        module.register_parameter(key, nn.Parameter(value, requires_grad=old.requires_grad))
    else:
        module.register_buffer(key, value, persistent=key not in module._non_persistent_buffers_set)


def _correct_widths(module: nn.Module, key: str, old: torch.Size) -> None:
    """Bring the numbers that torch's layers keep beside their tensors in line with the weight's new shape."""
    if key != "weight":
        return
    new = module.weight.shape
    if isinstance(module, nn.modules.conv._ConvNd):
        module.groups = module.groups * new[0] // old[0] if module.groups > 1 else 1
        module.out_channels, module.in_channels = new[0], new[1] * module.groups
        return
    if isinstance(module, nn.GroupNorm) and module.num_groups > 1:
        module.num_groups = module.num_groups * new[0] // old[0]
    if isinstance(getattr(module, "normalized_shape", None), (tuple, list, torch.Size)):
        module.normalized_shape = tuple(new)
    for attribute, dim in WIDTHS.items():
        if getattr(module, attribute, None) is not None and dim < len(new):
            setattr(module, attribute, new[dim])
    if hasattr(module, "nf"):  # transformers' Conv1D
        module.nx, module.nf = new


def _correct_reshapes(model: nn.Module, group: Group, units: int) -> None:
    """Modules that reshape the channels know the old number of heads or channels as plain integers."""
    changes = {group.units: group.units - units}
    for member in group.members:
        per_unit = member.indices.shape[1]
        if per_unit * group.units == member.axis.size:
            changes[member.axis.size] = member.axis.size - per_unit * units
    for name in group.reshapes:
        module = model.get_submodule(name)
        if type(module).__module__.startswith("torch.nn."):
            continue
        for attribute, value in list(vars(module).items()):
            if type(value) is int and value in changes and _means_width(attribute, group):
                setattr(module, attribute, changes[value])


def _means_width(attribute: str, group: Group) -> bool:
    if attribute == "all_head_size":
        return group.unit > 1
    if SIZE_OF_A_HEAD.search(attribute):
        return False
    return group.unit > 1 or "head" not in attribute


def permuted(model: PreTrainedModel, groups: list[Group]) -> PreTrainedModel:
    """Return a copy with the units of each group in reverse order."""
    trial = copy.deepcopy(model)
    with torch.no_grad():
        for group in groups:
            for member in group.members:
                tensor = getattr(trial.get_submodule(member.axis.module), member.axis.tensor)
                indices = torch.from_numpy(member.indices)
                values = tensor.index_select(member.axis.dim, indices.flip(0).flatten())
                tensor.index_copy_(member.axis.dim, indices.flatten(), values)
    return trial


def scrambled(model: PreTrainedModel) -> PreTrainedModel:
    """Return a double-precision copy whose every parameter matters: no zero initialisation, no tiny scale."""
    trial = copy.deepcopy(model).double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in trial.modules():
            for key, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                if not tensor.is_floating_point() or key in module._non_persistent_buffers_set or not tensor.numel():
                    continue
                noise = torch.rand(tensor.shape, generator=generator, dtype=tensor.dtype)
                tensor += (noise - (key != "running_var") * 0.5) * (tensor.std(correction=0) + 0.05)
    return trial
