"""What a rewrite saves and what it gets wrong, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_compress.checkpoint.rewrites import Rewritten
from hf_compress.ground.outputs import in_rows, outputs_of
from hf_compress.ground.progress import track
from hf_compress.measure.cost import count_parameters, counting_macs

Outputs = dict[str, Tensor]


@dataclass(eq=False)
class Proposal:
    """A layer that may be rewritten.

    Attributes:
        names: where it lies in the model.
        macs: of the old and of the new layers, for one image.
        deviation, scale: sums of squares of the difference between the new output and the old, and of the old.
        logits_error: relative error of what the model says with this layer alone rewritten; None where not measured.
    """

    names: tuple[str, ...]
    old: nn.Module
    new: Rewritten
    macs: tuple[int, int] = (0, 0)
    deviation: float = 0.0
    scale: float = 0.0
    logits_error: float | None = None

    @property
    def saved_macs(self) -> int:
        return self.macs[0] - self.macs[1]

    @property
    def output_error(self) -> float:
        """Relative error of the output: the norm of the difference by the norm of the old output, over all images."""
        return (self.deviation / self.scale) ** 0.5 if self.scale else 0.0

    def row(self) -> dict:
        """Return what the report says of the layer."""
        row = {
            "macs": list(self.macs),
            "parameters": [count_parameters(self.old), count_parameters(self.new)],
            "weights": [list(layer.weight.shape) for layer in self.new if hasattr(layer, "weight")],
            "output_error": self.output_error,
        }
        return row if self.logits_error is None else row | {"logits_error": self.logits_error}

    def put_into(self, model: PreTrainedModel, module: nn.Module) -> None:
        """Put `new` or `old` into the model."""
        for name in self.names:
            model.set_submodule(name, module.train(model.training))


def count_layer_macs(model: PreTrainedModel, candidates: list[Proposal], image: Tensor) -> None:
    """Fill `macs` of every candidate for one image, shape (1, 3, height, width)."""

    by_module = {candidate.old: candidate for candidate in candidates}

    def count(module: nn.Module, read: Tensor, made: Tensor) -> None:
        candidate = by_module[module]
        both = zip(candidate.macs, (candidate.old.forward, candidate.new), strict=True)
        candidate.macs = tuple(before + _macs(layer, read) for before, layer in both)

    with _observed(by_module, count):
        model(pixel_values=image)


def measure_output_errors(model: PreTrainedModel, candidates: list[Proposal], images: list[Tensor]) -> Outputs:
    """Fill the output error of every candidate, on what the old model feeds it; return what the old model says."""

    by_module = {candidate.old: candidate for candidate in candidates}

    def compare(module: nn.Module, read: Tensor, made: Tensor) -> None:
        candidate = by_module[module]
        candidate.deviation += (candidate.new(read) - made).double().square().sum().item()
        candidate.scale += made.double().square().sum().item()

    with _observed(by_module, compare):
        return outputs_of(model, images)


def measure_logits_errors(
    model: PreTrainedModel, candidates: list[Proposal], images: Iterable[Tensor], expected: Outputs
) -> None:
    """Fill the error of the logits that every candidate alone brings about; `expected` is what the old model says."""
    for candidate in track(candidates, "Trying layers"):
        candidate.put_into(model, candidate.new)
        candidate.logits_error = relative_error(outputs_of(model, images), expected)
        candidate.put_into(model, candidate.old)


def samples(model: PreTrainedModel, module: nn.Module, images: list[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Give what a module reads and makes, batch by batch of `images`."""
    seen: list[tuple[Tensor, Tensor]] = []
    for batch in images:
        with _observed([module], lambda _, read, made: seen.append((read, made))):
            model(pixel_values=batch)
        yield from seen
        seen.clear()


def relative_error(new: Outputs, old: Outputs) -> float:
    """Return the norm of the difference of all outputs by the norm of the old ones."""
    new, old = in_rows(new), in_rows(old)
    return ((new - old).double().norm() / old.double().norm()).item()


def top1_agreement(new: Outputs, old: Outputs) -> float | None:
    """Return the fraction of the images that get the same class; None where there is no logit a class for each."""
    if "logits" not in old or old["logits"].dim() != 2:
        return None
    return (new["logits"].argmax(dim=1) == old["logits"].argmax(dim=1)).double().mean().item()


@contextmanager
def _observed(modules: Iterable[nn.Module], look: Callable[[nn.Module, Tensor, Tensor], None]) -> Iterator[None]:
    """Call `look(module, what it reads, what it makes)` whenever one of the modules runs; without gradients."""

    def hook(module: nn.Module, args: tuple, kwargs: dict, made: Tensor) -> None:
        look(module, next(iter((*args, *kwargs.values()))), made)

    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in modules]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _macs(layer: Callable[[Tensor], Tensor], read: Tensor) -> int:
    with counting_macs() as counter:
        layer(read)
    return counter.macs
