"""Which channels belong together: every parameter's channels are followed through one forward pass: see `labels`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_compress.ground.looking import twin
from hf_compress.ground.outputs import output_tensors
from hf_compress.steps.pruning.tracing.labels import Follower, Links
from hf_compress.steps.pruning.tracing.operations import follow


def trace(model: nn.Module, image: Tensor) -> Links:
    """Run a model on `image`, shape (1, 3, height, width), and return how its parameters' channels are linked."""
    model = twin(model)
    drop_caches(model)
    follower = Follower(model)
    with torch.no_grad(), follower.watching(model), _Dispatch(follower):
        said = output_tensors(model(pixel_values=image))
    for name, tensor in said.items():
        for labels in follower.labels_of(tensor):
            follower.fix(labels, f"gives the {name}")
    return follower.links


def drop_caches(model: nn.Module) -> None:
    """Leave a model in eval mode without what it computed from its weights earlier, as LeViT caches its biases."""
    model.train()
    model.eval()


class _Dispatch(TorchDispatchMode):
    """Has every operation of a forward pass followed."""

    def __init__(self, follower: Follower):
        super().__init__()
        self.follower = follower

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(self.follower.labels_of(tensor) for tensor in inputs):
            outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
            follow(self.follower, func, args, kwargs, inputs, outputs)
        return out
