"""Forward passes that stop at layers, so that many batches go through models layer by layer, each of them once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from greenlet import greenlet
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Key = tuple[str, int]


class Operations(TorchDispatchMode):
    """Gives every tensor that an operation makes a key: the layer that ran last, and how many were made since.

    Two models of one architecture make the tensors of one key alike, however wide they are.
    """

    def __init__(self):
        super().__init__()
        self.key: Key = "", 0

    def made(self, key: Key, tensor: Tensor) -> None:
        """Look at a tensor that was just made."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                layer, count = self.key
                self.key = layer, count + 1
                self.made(self.key, leaf)
        return out


class Lockstep(Operations):
    """A `with` block in which passes through `models` stop at layers, without gradients.

    Args:
        models: in eval mode.
        layers: names of modules, the same in all models: those at which passes may stop, and by which keys are named.
    """

    def __init__(self, models: Iterable[nn.Module], layers: Iterable[str]):
        super().__init__()
        self.running: Pass | None = None
        self.passes: list[Pass] = []
        self._hooks = [(model.get_submodule(layer), self._hook(layer)) for model in models for layer in layers]

    def start(self, model: nn.Module, images: Tensor, keep: Iterable[Key]) -> Pass:
        """Return a pass of images (batch, 3, height, width) that stands before the first layer."""
        self.passes.append(Pass(self, model, images, set(keep)))
        return self.passes[-1]

    def __enter__(self):
        self._handles = [module.register_forward_hook(hook) for module, hook in self._hooks]
        self._no_grad = torch.no_grad()
        self._no_grad.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        for handle in self._handles:
            handle.remove()
        for each in self.passes:
            each.end()
        super().__exit__(*error)
        self._no_grad.__exit__(*error)

    def made(self, key: Key, tensor: Tensor) -> None:
        if self.running and key in self.running.keep:
            self.running.held[key] = tensor

    def _hook(self, layer: str):
        def after(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
            if self.running is None:
                return None
            if layer == self.running.layer:
                output = self.running.stop(args[0], output)
            self.key = layer, 0
            return output

        return after


class Pass:
    """One batch on its way through a model.

    Attributes:
        layer: the layer at which the pass stands, or to which it goes.
        source: what that layer was given.
        output: what it made of it, and what the pass goes on with.
        keep: keys of tensors that are needed.
        held: those of them that are made already.
    """

    def __init__(self, lockstep: Lockstep, model: nn.Module, images: Tensor, keep: set[Key]):
        self.layer, self.source, self.output = "", images, images
        self.keep, self.held = keep, {}
        self._lockstep = lockstep
        self._run = greenlet(lambda: model(pixel_values=images))

    def to(self, layer: str) -> None:
        """Go on to a layer that is still to come."""
        self.layer = layer
        self._lockstep.running, self._lockstep.key = self, ("", 0)
        try:
            self._run.switch()
        finally:
            self._lockstep.running = None
        if self._run.dead:
            raise RuntimeError(f"the model did not run its layer '{layer}'")

    def stop(self, source: Tensor, output: Tensor) -> Tensor:
        """Let others go on, and return what is in `output` at the end of that."""
        self.source, self.output = source, output
        self._run.parent.switch()
        output = self.output
        del self.source, self.output
        return output

    def end(self) -> None:
        self._run.throw()
