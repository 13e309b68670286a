"""Where a model breaks that does not run any more."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from hf_compress.steps.pruning.remove.symmetry import FAILURES


def where_it_breaks(model: nn.Module, image: Tensor) -> str:
    """Return which operation fails in which module; nothing where the model runs.

    Args:
        image: one input, shape (1, 3, height, width).
    """
    running: list[str] = []
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: running.append(name)))
        handles.append(module.register_forward_hook(lambda *_: running.pop() and None))
    try:
        with torch.no_grad(), _Last() as last:
            model(pixel_values=image)
    except FAILURES:
        return f"'{last.name}' fails in '{running[-1]}'"
    finally:
        for handle in handles:
            handle.remove()
    return ""


class _Last(TorchFunctionMode):
    """Knows the operation that was called last."""

    name = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ not in ("__get__", "__set__"):
            self.name = func.__name__
        return func(*args, **(kwargs or {}))
