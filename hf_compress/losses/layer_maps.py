"""What the layers of a model give in a forward pass, as maps that can be compared."""

import difflib
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from hf_compress.ground.errors import UsageError

EXTRA_TOKENS = 5


@dataclass
class Answer:
    """What a model says to a batch: float32 outputs by name, and what the named layers gave."""

    outputs: dict[str, Tensor]
    features: dict[str, Tensor] = field(default_factory=dict)


def answer(ask: Callable[[Any], dict[str, Tensor]], shown: Any, layers: Iterable[str], model: nn.Module) -> Answer:
    """Return what `ask` gives for what is shown, which runs `model`, and what its `layers` gave meanwhile."""
    with layer_outputs(model, layers) as features:
        outputs = ask(shown)
    return Answer({name: tensor.float() for name, tensor in outputs.items()}, features)


@contextmanager
def layer_outputs(model: nn.Module, layers: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Collect what the named layers give in a `with` block; of several calls, the last.

    Where a layer gives several tensors, the first counts. Nothing of the recording is left behind.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str):
        def store(module: nn.Module, inputs: tuple, output: Any) -> None:
            found[name] = output if isinstance(output, Tensor) else output[0]

        return store

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def require_layers(model: nn.Module, layers: Iterable[str], role: str) -> None:
    """Raise UsageError where a name is none of the model's modules; the message names the nearest."""
    names = [name for name, _ in model.named_modules() if name]
    for layer in layers:
        if layer not in names:
            near = difflib.get_close_matches(layer, names, n=1, cutoff=0)
            raise UsageError(
                f"'layers' names '{layer}', which the {role} ({type(model).__name__}) does not have; "
                f"did you mean '{near[0]}'?"
            )


def as_map(features: Tensor, layer: str) -> Tensor:
    """Return the output of a layer as a float32 map of shape (batch, channels, height, width).

    Maps stay as they are. Vectors (batch, channels) become maps of one pixel. Tokens (batch, tokens, channels) become
    square maps; up to five tokens before the square (class, distillation and register tokens) are left out.

    Raises:
        UsageError: the output is none of these.
    """
    if not isinstance(features, Tensor):
        raise UsageError(f"layer '{layer}' gives no tensor, but {type(features).__name__}: name another in 'layers'")
    features = features.float()
    if features.dim() == 4:
        return features
    if features.dim() == 2:
        return features[:, :, None, None]
    if features.dim() == 3:
        side = math.isqrt(features.shape[1])
        extra = features.shape[1] - side**2
        if extra <= EXTRA_TOKENS:
            return features[:, extra:].transpose(1, 2).unflatten(2, (side, side))
    raise UsageError(
        f"layer '{layer}' gives the shape {tuple(features.shape)}: name one that gives maps (batch, channels, height, "
        "width) or the tokens (batch, tokens, channels) of a square image"
    )


def of_one_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average the larger of two maps over adaptive windows, so that both have the smaller height and width."""
    size = tuple(map(min, first.shape[-2:], second.shape[-2:]))
    return tuple(maps if maps.shape[-2:] == size else F.adaptive_avg_pool2d(maps, size) for maps in (first, second))
