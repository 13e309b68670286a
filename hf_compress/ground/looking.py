"""Looking at models without changing anything in them, or around them."""

import copy
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

HALVES = {torch.float16, torch.bfloat16}


def twin(model: nn.Module) -> nn.Module:
    """Return a copy to look at: in eval mode and frozen, with the very weights of `model` in memory.

    Modes, hooks, configs, device and memory layout are its own: whatever is done to them, `model` stays as it was.
    Values that are changed in place are changed in both.
    """
    weights = {id(tensor): nn.Parameter(tensor.detach(), requires_grad=False) for tensor in model.parameters()}
    buffers = {id(tensor): tensor.detach() for tensor in model.buffers()}
    return copy.deepcopy(model, weights | buffers).eval()


def in_float32(twin: nn.Module) -> nn.Module:
    """Give a twin whose weights are in half precision some of its own in float32, as its inputs are; return it."""
    halves = any(weight.dtype in HALVES for weight in twin.parameters())
    return twin.float() if halves else twin


@contextmanager
def kept_in_eval(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Keep modules in eval mode in a `with` block, whatever mode their model is put in. Blocks may be nested."""
    held = [module for module in modules if "train" not in vars(module)]
    for module in held:
        module.eval()  # nothing is chained: the attention of LeViT and EfficientFormer returns None
        module.train = lambda mode=True, module=module: module
    try:
        yield
    finally:
        for module in held:
            del module.train


@contextmanager
def same_config(model: nn.Module | None) -> Iterator[None]:
    """Undo what is written into a model's config in a `with` block: the Trainer leaves `use_cache` in it."""
    values = vars(getattr(model, "config", None) or SimpleNamespace())
    before = dict(values)
    try:
        yield
    finally:
        values.clear()
        values.update(before)


@contextmanager
def same_random_state() -> Iterator[None]:
    """Undo what is done to Python's, NumPy's and torch's random numbers in a `with` block: the Trainer seeds them."""
    python, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)
