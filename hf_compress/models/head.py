"""The classifier at the end of a model, found by what it does: no architecture is known here by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn
from transformers import BaseImageProcessor, PreTrainedModel

from hf_compress.data.images import noise, preprocess
from hf_compress.ground.errors import RunError
from hf_compress.ground.looking import kept_in_eval
from hf_compress.ground.outputs import output_tensors


def find_head(model: PreTrainedModel, processor: BaseImageProcessor) -> dict[str, int]:
    """Return the parameters that make the logits, each with the dimension along which it holds the classes.

    Logit k depends on slice k of such a parameter alone, as its gradients tell. Where the logits of several
    classifiers are averaged (DeiT, LeViT), these are the parameters of all.

    Args:
        model: in eval mode.

    Raises:
        RunError: there is none with weights, as where the logits are computed without gradients; or the model does
            not give one logit an image and class.
    """
    classes = model.config.num_labels
    candidates = {
        name: parameter
        for name, parameter in model.named_parameters()
        if classes in parameter.shape and parameter.is_floating_point()
    }
    frozen = [parameter.requires_grad_() for parameter in candidates.values() if not parameter.requires_grad]
    with torch.enable_grad():
        logits = _logits(model, processor)
        gradients = {last: _gradients(logits[:, last].sum(), candidates) for last in {0, classes - 1}}
    for parameter in frozen:
        parameter.requires_grad_(False)
    head = {}
    for name, parameter in candidates.items():
        for dimension in [d for d, length in enumerate(parameter.shape) if length == classes]:
            if all(_touches_only(found[name], dimension, index) for index, found in gradients.items()):
                head[name] = dimension
    if not any(candidates[name].dim() > 1 for name in head):
        raise RunError(
            f"the classifier of {type(model).__name__} was not found: no parameter holds a slice for each of its "
            f"{classes} logits"
        )
    return head


@contextmanager
def head_alone(model: PreTrainedModel, processor: BaseImageProcessor) -> Iterator[None]:
    """Let the head alone learn in a `with` block.

    All else keeps its weights and statistics: a module without a learning parameter stays in eval mode.

    Args:
        model: in eval mode.

    Raises:
        RunError: see `find_head`.
    """
    head = find_head(model, processor)
    learnt = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in head)
    try:
        with kept_in_eval(filter(_is_still, model.modules())):
            yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(learnt[name])


def permute_classes(model: PreTrainedModel, processor: BaseImageProcessor, order: list[int]) -> None:
    """Make logit `order[i]` logit i, by moving the rows of the classifier.

    Raises:
        RunError: the model has no such classifier, or something else in it depends on the order.
    """
    _take(model, model, processor, order, "be put into another order")


def take_classes(
    model: PreTrainedModel, whole: PreTrainedModel, processor: BaseImageProcessor, classes: list[int]
) -> None:
    """Give a model the classifier of one that has more classes: logit i becomes logit `classes[i]` of `whole`.

    Args:
        model: the same as `whole` but for its classes.

    Raises:
        RunError: `whole` has no such classifier, or something else in it depends on the number of classes.
    """
    _take(model, whole, processor, classes, "be taken from more")


def renew_head(model: PreTrainedModel, processor: BaseImageProcessor) -> None:
    """Forget the classes: random weights, and biases that are the same for all.

    Raises:
        RunError: see `find_head`.
    """
    deviation = getattr(model.config, "initializer_range", None) or 0.02
    with torch.no_grad():
        for name in find_head(model, processor):
            parameter = model.get_parameter(name)
            if parameter.dim() > 1:
                parameter.normal_(0, deviation)
            else:
                parameter.fill_(parameter.mean())


@torch.no_grad()
def _take(
    model: PreTrainedModel, whole: PreTrainedModel, processor: BaseImageProcessor, classes: list[int], what: str
) -> None:
    """Make logit `classes[i]` of `whole`, which may be the model itself, logit i; `what` failed where it is not."""
    head, wanted = find_head(whole, processor), _logits(whole, processor)[:, classes]
    for name, dimension in head.items():
        kept = whole.get_parameter(name).index_select(dimension, torch.tensor(classes))
        model.get_parameter(name).copy_(kept)
    if not torch.allclose(_logits(model, processor), wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item()):
        raise RunError(f"the labels of {type(model).__name__} cannot {what}: not only its head has them")


def _is_still(module: nn.Module) -> bool:
    """Return whether a module holds something, and none of it learns: the dropout before a head holds nothing."""
    held = list(chain(module.parameters(), module.buffers()))
    return bool(held) and not any(tensor.requires_grad for tensor in held)


def _logits(model: PreTrainedModel, processor: BaseImageProcessor) -> Tensor:
    """Return what the model says to some pictures of noise."""
    logits = output_tensors(model(pixel_values=preprocess(processor, noise(4)))).get("logits")
    if logits is not None and logits.dim() == 4:  # a map of them, of which all places are made alike
        logits = logits.mean(dim=(2, 3))
    if logits is None or logits.shape[1:] != (model.config.num_labels,):
        raise RunError(
            f"the classifier of {type(model).__name__} was not found: it does not give each image one logit for each "
            f"of its {model.config.num_labels} classes"
        )
    return logits


def _gradients(value: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor | None]:
    if not value.requires_grad or not parameters:
        return dict.fromkeys(parameters)
    found = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
    return dict(zip(parameters, found, strict=True))


def _touches_only(gradient: Tensor | None, dimension: int, index: int) -> bool:
    if gradient is None:
        return False
    touched = gradient.movedim(dimension, 0).flatten(1).any(dim=1) if gradient.dim() > 1 else gradient != 0
    return touched.nonzero().flatten().tolist() == [index]
