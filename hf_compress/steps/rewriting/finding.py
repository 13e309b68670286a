"""Which layers of a model a rewrite is about: those that a recipe names, and functions that no rewrite reaches."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

from hf_compress.ground.errors import RunError
from hf_compress.steps.rewriting.base import Rewriting
from hf_compress.steps.rewriting.config import RewriteConfig


@dataclass
class Found:
    """What a rewrite is about.

    Attributes:
        modules: the modules to rewrite, by their names: several where a model holds one in several places.
        skipped: other layers that the recipe names, with the reason why they stay.
    """

    modules: dict[tuple[str, ...], nn.Module]
    skipped: dict[str, str]


def find_layers(model: PreTrainedModel, image: Tensor, rewriting: Rewriting, config: RewriteConfig) -> Found:
    """Return the layers that a recipe names.

    Args:
        image: one input, shape (1, 3, height, width).

    Raises:
        RunError: a pattern matches no layer, or the model has none.
    """
    watch = _Watch(model, rewriting)
    with torch.no_grad(), watch:
        model(pixel_values=image)
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if module in watch.concerned:
            names.setdefault(module, []).append(name)
    known = [name for places in names.values() for name in places] + list(watch.calls)
    if not known:
        raise RunError(
            f"{type(model).__name__} has no {rewriting.subject} that 'rewrite: {config.kind}' could replace"
        )
    wanted = set(_matching(known, config.layers, "layers")) if config.layers else set(known)
    excluded = set(_matching(known, config.exclude, "exclude"))

    found = Found({}, {name: reason for name, reason in watch.calls.items() if name in wanted})
    for module, places in names.items():
        if not wanted.intersection(places):
            continue
        if excluded.intersection(places):
            found.skipped[places[0]] = "excluded by the recipe"
        elif module not in watch.ran:
            found.skipped[places[0]] = "takes no part in the forward pass"
        else:
            found.modules[tuple(places)] = module
    return found


def _matching(names: list[str], patterns: list[str], key: str) -> Iterator[str]:
    for pattern in patterns:
        matches = fnmatch.filter(names, pattern)
        if not matches:
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4) or names[:3]
            nearest = ", ".join(f"'{name}'" for name in near)
            raise RunError(f"'{key}' pattern '{pattern}' matches no layer that can be rewritten; nearest: {nearest}")
        yield from matches


class _Watch(TorchDispatchMode):
    """Sees which modules run, and which call an operation as a function that others have as a module.

    Attributes:
        concerned: the modules that a rewrite is about.
        ran: modules that took part in the forward pass.
        calls: name of the module that calls a function -> what to say of it.
    """

    def __init__(self, model: PreTrainedModel, rewriting: Rewriting):
        super().__init__()
        self.model = model
        self.functions = rewriting.functions
        self.concerned = {module for module in model.modules() if rewriting.concerns(module)}
        self.ran: set[nn.Module] = set()
        self.calls: dict[str, str] = {}
        self.stack: list[tuple[str, nn.Module]] = []

    def __enter__(self):
        self.hooks = []
        for name, module in self.model.named_modules():
            self.hooks.append(module.register_forward_pre_hook(lambda m, _, name=name: self._enter(name, m)))
            self.hooks.append(module.register_forward_hook(lambda *_: self._leave()))
        return super().__enter__()

    def __exit__(self, *error):
        for hook in self.hooks:
            hook.remove()
        return super().__exit__(*error)

    def _enter(self, name: str, module: nn.Module) -> None:
        self.stack.append((name, module))
        self.ran.add(module)

    def _leave(self) -> None:
        self.stack.pop()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        operation = func.overloadpacket.__name__
        name, module = self.stack[-1]
        if module not in self.concerned and operation.startswith(self.functions):
            function = next(each for each in self.functions if operation.startswith(each))
            self.calls[name or type(module).__name__] = f"calls {function} as a function: only modules can be replaced"
        return func(*args, **(kwargs or {}))
