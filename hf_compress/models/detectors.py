"""Loads object detectors, and gives them other classes: no architecture is known here by name."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForObjectDetection, PreTrainedModel

from hf_compress.checkpoint.labels import among, label_names, label_options, numbered, positions, some_labels
from hf_compress.data.images import example_input, refuse_many_sizes
from hf_compress.ground.errors import CompressError, RunError
from hf_compress.models.load import LoadedModel, open_model, other_classes

POST_PROCESSING = "post_process_object_detection"


def load_detector(
    name: str, *, labels: list[str] | None = None, pretrained: bool = True, **options: Any
) -> LoadedModel:
    """Load an object detector in float32, in eval mode; see `models.load.load` for the arguments and errors.

    Where the wanted classes are the checkpoint's in another order, or some of them, its class heads keep these alone,
    in that order; with other names they are new and untrained.
    """
    known: list[str] = []
    opening = partial(
        open_model,
        name,
        AutoModelForObjectDetection,
        "is no object detector: transformers has none of the type",
        pretrained=pretrained,
        **options,
    )
    opened = opening(changes=other_classes(labels, known))
    model, wanted = opened.model, known if labels is None else labels
    by_class = class_dimensions(model) if opened.missing or wanted != known else {}
    if lacking := sorted(opened.missing - by_class.keys()):
        raise RunError(
            f"{name} cannot be loaded: its checkpoint lacks {len(lacking)} weights of its config, the first is "
            f"'{lacking[0]}'"
        )
    _refuse_other_outputs(name, model, opened.processor)
    order, some = positions(wanted, known), among(wanted, known) if pretrained else None
    new_head = bool(not pretrained or opened.missing or (len(wanted) != len(known) and some is None))
    if some is not None:
        take_detected(model, opening().model, by_class, some)
    elif not new_head and order is None and not (numbered(wanted) and numbered(known)):
        renew_detected(model, by_class)
        new_head = True
    elif not new_head and order is not None:
        take_detected(model, model, by_class, order)
    model.config.update(label_options(wanted))
    return LoadedModel(model, opened.processor, name, opened.commit, new_head, None if some is None else len(known))


def class_dimensions(model: PreTrainedModel) -> dict[str, int]:
    """Return the weights that have a slice for each class, with that dimension: those that grow with a class more.

    There may be further slices after those of the classes, for no object or for padding.
    """
    shapes = []
    for count in (model.config.num_labels, model.config.num_labels + 1):
        config = copy.deepcopy(model.config)
        config.update(label_options([str(index) for index in range(count)]))
        with torch.device("meta"):
            other = type(model)._from_config(config)
        shapes.append({name: parameter.shape for name, parameter in other.named_parameters(remove_duplicate=False)})
    first, second = shapes
    return {
        name: next(dim for dim, (one, two) in enumerate(zip(shape, second[name], strict=True)) if one != two)
        for name, shape in first.items()
        if shape != second[name]
    }


@torch.no_grad()
def take_detected(
    model: PreTrainedModel, whole: PreTrainedModel, by_class: dict[str, int], classes: list[int]
) -> None:
    """Let class i be class `classes[i]` of a model with as many classes or more; see `class_dimensions`."""
    for name, parameter in _each_once(model, by_class).items():
        theirs = whole.get_parameter(name)
        rest = range(whole.config.num_labels, theirs.shape[by_class[name]])
        parameter.copy_(theirs.index_select(by_class[name], torch.tensor([*classes, *rest])))


@torch.no_grad()
def renew_detected(model: PreTrainedModel, by_class: dict[str, int]) -> None:
    """Forget the classes: these weights become those of a new model, see `class_dimensions`."""
    fresh = dict(type(model)._from_config(copy.deepcopy(model.config)).named_parameters(remove_duplicate=False))
    for name, parameter in _each_once(model, by_class).items():
        parameter.copy_(fresh[name])


def _each_once(model: nn.Module, by_class: dict[str, int]) -> dict[str, nn.Parameter]:
    """Return the weights that belong to classes; tied ones under one of their names."""
    found = {id(parameter): (name, parameter) for name in by_class for parameter in [model.get_parameter(name)]}
    return dict(found.values())


def _refuse_other_outputs(name: str, model: PreTrainedModel, processor: Any) -> None:
    """Let the model see a picture as its processor makes it, and require logits and boxes, and what reads them."""
    if not hasattr(processor, POST_PROCESSING):
        raise RunError(
            f"{name} cannot be used: its image processor, {type(processor).__name__}, makes no boxes of a detector's "
            "outputs: name that of a detector in preprocessor_config.json"
        )
    try:
        refuse_many_sizes(name, processor)
        with torch.no_grad():
            output = model(pixel_values=example_input(processor))
        logits, boxes = output.logits, output.pred_boxes
    except CompressError:
        raise
    except Exception as error:
        raise RunError(
            f"{name} cannot be used: {type(model).__name__} finds no boxes in what its image processor makes: "
            f"{' '.join(str(error).split())}"
        ) from error
    classes = model.config.num_labels
    if logits.dim() != 3 or boxes.shape != (*logits.shape[:2], 4) or logits.shape[2] not in (classes, classes + 1):
        raise RunError(
            f"{name} cannot be used: {type(model).__name__} gives logits of shape {tuple(logits.shape)} and boxes of "
            f"shape {tuple(boxes.shape)} for one picture, but its config names {classes} labels "
            f"({some_labels(label_names(model.config))})"
        )
    if not (logits.isfinite().all() and boxes.isfinite().all()):
        raise RunError(f"{name} cannot be used: its outputs for a black picture are not finite")
