"""How weights lie in memory."""

from __future__ import annotations

import torch
from torch import nn


def use_channels_last(model: nn.Module) -> None:
    """Lay out the weights of convolutions as the fast CPU and GPU kernels want them; values do not change.

    Models that use a convolution's weights twice stay as they are: neither transformers nor safetensors finds out in
    that layout which weights are shared, and so they could not be saved.
    """
    names = [name for name, weight in model.named_parameters(remove_duplicate=False) if weight.dim() > 3]
    if len(names) == sum(weight.dim() > 3 for weight in model.parameters()):
        model.to(memory_format=torch.channels_last)
