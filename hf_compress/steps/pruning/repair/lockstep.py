"""Forward passes that stop at layers, so that many batches go through models layer by layer, each of them once."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from greenlet import greenlet
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_compress.ground.choices import CHOICE, chosen_again
from hf_compress.ground.tensors import copy_with_same_tensors
from hf_compress.steps.pruning.tracing.groups import LAYERS

Key = tuple[str, int]


class Operations(TorchDispatchMode):
    """Gives every tensor that an operation makes a key: the layer that ran last, and how many were made since.

    Passes of one model make the tensors of one key alike.
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
        models: in eval mode; their layers are where passes may stop.
    """

    def __init__(self, models: Iterable[nn.Module]):
        super().__init__()
        self.running: Pass | None = None
        self.passes: list[Pass] = []
        self._hooks = [
            (module, self._hook(name))
            for model in models
            for name, module in model.named_modules()
            if isinstance(module, LAYERS)
        ]

    def start(
        self, model: nn.Module, images: Tensor, skips: dict[str, Key | None], leader: Pass | None = None
    ) -> Pass:
        """Return a pass of images (batch, 3, height, width) that stands before the first layer.

        Args:
            skips: by layer, the tensor to which its output is added. Those of layers that are taken out are forgotten.
            leader: a pass of the same images that is always ahead; what it chooses is chosen here, too.
        """
        self.passes.append(Pass(self, model, images, skips, leader))
        return self.passes[-1]

    def __enter__(self):
        self._handles = [module.register_forward_hook(hook) for module, hook in self._hooks]
        self._no_grad = torch.no_grad()
        self._no_grad.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        for handle in self._handles:
            handle.remove()
        while self.passes:
            self.passes.pop().end()
        super().__exit__(*error)
        self._no_grad.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if self.running and func.overloadpacket is CHOICE:
            return self.running.choose(args, kwargs or {}, out)
        return out

    def made(self, key: Key, tensor: Tensor) -> None:
        if self.running and key in self.running.skips.values():
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
        skips: see `Lockstep.start`.
        held: those of them that are made already.
        choices: indices that it has chosen, see `ground.choices`.
    """

    def __init__(
        self,
        lockstep: Lockstep,
        model: nn.Module,
        images: Tensor,
        skips: dict[str, Key | None],
        leader: Pass | None = None,
    ):
        self.layer, self.source, self.output = "", images, images
        self.skips, self.held = skips, {}
        self.choices: list[Tensor] = []
        self._lockstep, self._leader = lockstep, leader
        own = copy_with_same_tensors(model)  # modules that keep what they computed keep that of this pass
        self._run = greenlet(lambda: own(pixel_values=images))

    @property
    def skip(self) -> Tensor | None:
        """What the output is added to."""
        return self.held.get(self.skips.get(self.layer))

    def to(self, layer: str) -> None:
        """Go on to a layer that is still to come."""
        self.layer = layer
        self.held = {key: tensor for key, tensor in self.held.items() if key in self.skips.values()}
        self._lockstep.running, self._lockstep.key = self, ("", 0)
        try:
            self._run.switch()
        finally:
            self._lockstep.running = None
        if self._run.dead:
            raise RuntimeError(f"the model did not run its layer '{layer}'")

    def choose(self, args: tuple, kwargs: dict, own: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return what `topk` gives: the leader's choice where there is one."""
        made = own if self._leader is None else chosen_again(args, kwargs, self._leader.choices[len(self.choices)])
        self.choices.append(made[1])
        return made

    def stop(self, source: Tensor, output: Tensor) -> Tensor:
        """Let others go on, and return what is in `output` at the end of that."""
        self.source, self.output = source, output
        self._run.parent.switch()
        output = self.output
        del self.source, self.output
        return output

    def end(self) -> None:
        self._run.throw()
