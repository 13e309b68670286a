"""`torch.compile`, as trainings and measurements use it."""

from __future__ import annotations

import torch
from torch import nn


def compiled(model: nn.Module) -> nn.Module:
    """Return `model` compiled, one graph a batch size, with the same weights.

    The graphs are made when it is first called with a size, which takes from seconds to minutes.
    """
    torch._dynamo.config.recompile_limit = 64  # models of one class share it; beyond it they silently run eagerly
    return torch.compile(model, dynamic=False)
