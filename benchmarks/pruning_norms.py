"""Batch norms of `pruning_peers.py`: with statistics that are true, so that training may go on from them."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def norms_of(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


@torch.no_grad()
def restate(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give each batch norm of a model in eval mode the statistics of what enters it, and let it compute the same.

    Where norms were folded into convolutions, they have the mean 0 and the variance 1, and a training would start from
    another function than evaluation saw.
    """
    sums = {norm: 0 for norm in norms_of(model)}

    def watch(norm: nn.Module, args: tuple[Tensor]) -> None:
        values = args[0].double().transpose(0, 1).flatten(1)
        count = torch.full_like(values[:, 0], values.shape[1])
        sums[norm] = sums[norm] + torch.stack([count, values.sum(1), values.square().sum(1)])

    handles = [norm.register_forward_pre_hook(watch) for norm in sums]
    for pixels in batches:
        model(pixel_values=pixels)
    for handle in handles:
        handle.remove()
    for norm, (count, total, squares) in sums.items():
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0)
        slope = norm.weight / (norm.running_var + norm.eps).sqrt()
        norm.bias += slope * (mean - norm.running_mean)
        norm.weight.copy_(slope * (variance + norm.eps).sqrt())
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)


def re_estimated(model: nn.Module, batches: Iterable[Tensor]) -> nn.Module:
    """Return a copy whose batch norms have the mean statistics of the batches, as torch's `update_bn` finds them."""
    model = copy.deepcopy(model).train()
    for norm in norms_of(model):
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for pixels in batches:
            model(pixel_values=pixels)
    return model.eval()
