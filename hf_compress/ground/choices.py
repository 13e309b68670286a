"""What a model chooses from an image, as detectors choose the places that become queries, and another model as well.

Two models that choose for themselves answer about different places, in different orders: nothing can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

CHOICE = torch.ops.aten.topk


def chosen_again(args: tuple[Any, ...], kwargs: dict[str, Any], indices: Tensor) -> tuple[Tensor, Tensor]:
    """Return what `topk` gives where these indices have to be chosen: the values there, and the indices."""
    dim = kwargs.get("dim", args[2] if len(args) > 2 else -1)
    return args[0].gather(dim, indices), indices


class Choices:
    """The places that one model chose in its passes over some images."""

    def __init__(self, made: Iterable[Tensor] = ()):
        self.made = list(made)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Remember what the model that runs in a `with` block chooses."""
        self.made = []
        with _Recording(self.made):
            yield

    @contextmanager
    def repeated(self) -> Iterator[None]:
        """Let the model that runs in a `with` block, on the same images, choose the same, and then for itself."""
        with _Repeating(self.made):
            yield


class _Recording(TorchDispatchMode):
    def __init__(self, made: list[Tensor]):
        super().__init__()
        self.made = made

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket is CHOICE:
            self.made.append(out[1])
        return out


class _Repeating(TorchDispatchMode):
    def __init__(self, made: list[Tensor]):
        super().__init__()
        self.made = iter(made)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is CHOICE and (made := next(self.made, None)) is not None:
            return chosen_again(args, kwargs or {}, made)
        return func(*args, **(kwargs or {}))
