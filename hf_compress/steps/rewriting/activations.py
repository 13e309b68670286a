"""Activation functions as ReLU or ReLU6, which every kernel library fuses and which quantise well.

What a module is shows in what it does on a line of numbers, so that the classes of transformers, timm and custom code
count like torch's own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_compress.steps.rewriting.base import Unsuitable

FAR = 20.0
LINEAR = {"relu": nn.ReLU, "relu6": nn.ReLU6}


def is_activation(module: nn.Module) -> bool:
    """Tell whether a module is an elementwise function that bends, without parameters: no Dropout, no Softmax."""
    values = _on_a_line(module)
    return values is not None and not _straight(values)


def piecewise_linear(module: nn.Module, to: str) -> nn.Module:
    """Return what takes the place of an activation function.

    A rectifier (LeakyReLU, ELU, SiLU, GELU, Hardswish, ReLU6, ...) becomes `to`. A sigmoid becomes the hard sigmoid,
    ReLU6(x + 3) / 6 (Howard et al., 2019, section 5.2): what reads it, such as the gate of squeeze-and-excitation,
    relies on values between 0 and 1.

    Args:
        to: `relu` or `relu6`.

    Raises:
        Unsuitable: it is that already, or neither rectifier nor sigmoid.
    """
    low, high = _on_a_line(module)[[0, -1]].tolist()
    gate = abs(low) < 1e-3 and abs(high - 1) < 1e-3
    if not gate and not (6 <= high <= 1.01 * FAR and abs(low) < FAR / 2):
        raise Unsuitable(f"is a {type(module).__name__}, which no ReLU imitates")
    new = nn.Hardsigmoid() if gate else LINEAR[to]()
    if torch.allclose(_on_a_line(module), _on_a_line(new), atol=1e-6):
        raise Unsuitable(f"is {type(new).__name__} already")
    return new


def _on_a_line(module: nn.Module) -> Tensor | None:
    """Return the values of a module from -20 to 20; None where it is no elementwise function without parameters."""
    line = torch.linspace(-FAR, FAR, 401)
    if any(True for _ in module.children()) or any(True for _ in module.parameters()):
        return None
    try:
        with torch.no_grad():
            values, part = module(line.clone()), module(line[:200].clone())
    except Exception:  # modules of any kind are asked, and want other inputs
        return None
    same = isinstance(values, Tensor) and values.shape == line.shape and torch.allclose(values[:200], part, atol=1e-6)
    return values if same else None


def _straight(values: Tensor) -> bool:
    steps = values.diff()
    return bool((steps - steps[0]).abs().max() < 1e-4)
