"""Loads models of classes and their image processors: Hub id, local folder, timm checkpoint, custom code."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from huggingface_hub import resolve_revision
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSemanticSegmentation,
    BaseImageProcessor,
    PretrainedConfig,
    PreTrainedModel,
)

from hf_compress.checkpoint.code import is_generated
from hf_compress.checkpoint.labels import among, label_names, label_options, numbered, positions, set_labels
from hf_compress.checkpoint.quantizer import rebuild
from hf_compress.ground.errors import CompressError, RunError, UsageError
from hf_compress.ground.files import missing_folder, user_path
from hf_compress.ground.hub_failures import limit_waits, not_loaded
from hf_compress.ground.tensors import use_torch_momentum
from hf_compress.models.declared import refuse_huge, refuse_huge_pictures, refuse_outside
from hf_compress.models.head import permute_classes, renew_head, take_classes
from hf_compress.models.torchvision_weights import is_of_torchvision, torchvision_folder


@dataclass
class LoadedModel:
    """A model with the image processor that belongs to it.

    Attributes:
        name: as the user gave it.
        label_names: class names in the order of the logits.
        commit: commit of the Hub repository, None for a folder.
        new_head: whether the classifier, or the pooling layer of a backbone, is untrained.
        classes_before: how many its checkpoint has, where its own are some of them.
        projector: maps a backbone's embeddings to its teacher's where their widths differ.
    """

    model: PreTrainedModel
    processor: BaseImageProcessor
    name: str
    commit: str | None = None
    new_head: bool = False
    classes_before: int | None = None
    projector: torch.nn.Linear | None = None

    @property
    def label_names(self) -> list[str]:
        return label_names(self.model.config)

    @property
    def members(self) -> list[LoadedModel]:
        """The models it is made of: more than itself for an ensemble alone."""
        return [self]


@dataclass
class Opened:
    """What lies under a name, as transformers loads it.

    Attributes:
        config: of the whole checkpoint.
        missing, mismatched: names of weights that are random, because the checkpoint lacks them or has other shapes.
        commit: see `LoadedModel`.
    """

    model: PreTrainedModel
    processor: BaseImageProcessor
    config: PretrainedConfig
    missing: set[str]
    mismatched: set[str]
    commit: str | None


@dataclass(frozen=True)
class ClassKind:
    """A kind of model that gives a logit a class.

    Attributes:
        auto: the auto class of transformers.
        noun: what one is called, with its article.
        dimensions: of the logits: (images, classes), and perhaps height and width of a map.
    """

    auto: Any
    noun: str
    dimensions: int


CLASSIFIER = ClassKind(AutoModelForImageClassification, "an image classifier", 2)
SEGMENTER = ClassKind(AutoModelForSemanticSegmentation, "a model for semantic segmentation", 4)


def open_model(
    name: str,
    auto: Any,
    refusal: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    pretrained: bool = True,
    part: Callable[[PretrainedConfig], PretrainedConfig] = lambda config: config,
    changes: Callable[[PretrainedConfig], dict[str, Any]] = lambda config: {},
) -> Opened:
    """Load a model of any kind and its image processor in float32; see `load` for the arguments and errors.

    Args:
        auto: the auto class of transformers.
        refusal: what is said after the name of a model that has none of this class, before its type.
        part: gives the config of the part that is loaded.
        changes: gives what replaces values of the config, weights that do not fit it then being random.
    """
    limit_waits()
    folder = local_folder(name)
    source = folder or name
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        if folder is None:  # all files are those of one commit, from the cache where the Hub is out of reach
            options["revision"] = resolve_revision(name, revision=revision)
        refuse_huge(name, PretrainedConfig.get_config_dict(source, revision=options["revision"])[0])
        whole = AutoConfig.from_pretrained(source, **options)
        config = part(whole)
        code = getattr(config, "auto_map", None) or {}
        if auto.__name__ not in code and type(config) not in auto._model_mapping:
            raise RunError(f"{name} {refusal} '{config.model_type}'")
        if "AutoConfig" not in code and is_generated(code.get(auto.__name__)):
            options["trust_remote_code"] = False  # this package does what that code would do
        processor = AutoImageProcessor.from_pretrained(source, **options)
        refuse_huge_pictures(name, processor)
        wanted = changes(config)
        info: dict[str, Any] = {}
        if pretrained:
            refuse_outside(name, source, whole, options["revision"])
            model, info = auto.from_pretrained(
                source,
                **({} if config is whole else {"config": config}),
                **options,
                **wanted,
                dtype=torch.float32,
                ignore_mismatched_sizes=bool(wanted),
                output_loading_info=True,
            )
        else:
            config.update(wanted)
            model = auto.from_config(config, trust_remote_code=options["trust_remote_code"])
            rebuild(model)
    except CompressError:
        raise
    except Exception as error:
        raise not_loaded(name, error) from error
    use_torch_momentum(model)
    for more in ("output_hidden_states", "output_attentions"):  # whoever needs them asks for them
        if getattr(model.config, more, False):
            setattr(model.config, more, False)
    commit = None if folder else options["revision"].resolved
    missing, mismatched = info.get("missing_keys", set()), info.get("mismatched_keys", set())
    return Opened(model.eval(), processor, whole, missing, mismatched, commit)


def load(
    name: str,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    labels: list[str] | None = None,
    pretrained: bool = True,
    kind: ClassKind = CLASSIFIER,
) -> LoadedModel:
    """Load an image classifier, or another `kind` of model with a logit a class, in float32, in eval mode.

    Args:
        name: Hub id (`microsoft/resnet-18`), timm checkpoint (`timm/resnet18.a1_in1k`), folder in Hub form, or
            weights of torchvision (`torchvision:resnet18`, or a file such as `resnet18-mine.pth`).
        revision: branch, tag or commit.
        trust_remote_code: run Python code of the repository.
        labels: wanted class names; where they are the checkpoint's in another order, or some of them, its classifier
            gives these alone in that order, and with other names it is new and untrained.
        pretrained: False gives the architecture, with the widths of a pruned one, with random weights.

    Raises:
        UsageError: the id or folder does not exist, or needs `trust_remote_code`.
        RunError: the repository is gated or out of reach, or holds no such model.
    """
    known: list[str] = []
    opening = partial(
        open_model,
        name,
        kind.auto,
        f"is not {kind.noun}: transformers has none of the type",
        revision=revision,
        trust_remote_code=trust_remote_code,
        pretrained=pretrained,
    )
    opened = opening(changes=other_classes(labels, known))
    model, processor = opened.model, opened.processor
    new_head = bool(
        not pretrained or opened.missing or opened.mismatched or (labels is not None and len(labels) != len(known))
    )
    _refuse_missing_body(name, model, opened.missing)
    if new_head and labels is None and pretrained:
        raise RunError(
            f"{name} is not {kind.noun}: its checkpoint lacks the weights of the classification head; "
            "where it was made for another task, set 'task' (segmentation, detection, depth); to learn from the "
            "embeddings of a backbone, 'task: features' (recipe distill-features)"
        )
    _refuse_other_inputs(name, model, processor, kind)
    classes = among(labels, known) if labels is not None and pretrained else None
    if classes is not None:
        with suppress(RunError):  # not found: the classifier stays a new one
            take_classes(model, opening().model, processor, classes)
            new_head = False
    elif labels is not None and not new_head:
        new_head = _relabel(model, processor, known, labels)
    set_labels(model.config, known if labels is None else labels)
    before = None if classes is None or new_head else len(known)
    return LoadedModel(model, processor, name, opened.commit, new_head, before)


def other_classes(labels: list[str] | None, known: list[str]) -> Callable[[PretrainedConfig], dict[str, Any]]:
    """Return `changes` of `open_model` that give a config the classes `labels`, unless it has as many.

    Args:
        known: is filled with the classes that the config has.
    """

    def changes(config: PretrainedConfig) -> dict[str, Any]:
        known[:] = label_names(config)
        return {} if labels is None or len(labels) == len(known) else label_options(labels)

    return changes


def _relabel(model: PreTrainedModel, processor: BaseImageProcessor, known: list[str], labels: list[str]) -> bool:
    """Make the classifier's logits those of `labels`, and return whether it had to be a new one."""
    order = positions(labels, known)
    if order is None and not (numbered(labels) and numbered(known)):
        renew_head(model, processor)
        return True
    if order not in (None, list(range(len(labels)))):
        permute_classes(model, processor, order)
    return False


def local_folder(name: str) -> str | None:
    """Return the path of a folder in Hub form, None for what can only be a Hub id.

    Raises:
        UsageError: a path without a model.
    """
    if is_of_torchvision(name):
        return torchvision_folder(name)
    path = user_path(name)
    if os.path.isfile(path):
        raise UsageError(
            f"'{name}' is a file: name the folder in Hub form that holds config.json and the weights, or a state dict "
            "of torchvision that ends in .pth"
        )
    if os.path.isdir(path):
        if (path / "shapes.json").is_file():
            raise UsageError(
                f"folder '{name}' holds a pruned module that is no checkpoint of transformers: give the unpruned one "
                "to hf_compress.restore, or open model.pt2 or model.onnx"
            )
        if not (path / "config.json").is_file():
            raise UsageError(f"folder '{name}' has no config.json: give a folder in Hub form")
        for place in sorted(path.iterdir()):
            if place.exists() and not (place.is_file() or place.is_dir()):
                raise UsageError(f"'{place.name}' in folder '{name}' is no regular file: remove the pipe or device")
        return str(path)
    if missing_folder(name):
        raise UsageError(f"there is no model folder '{name}'")
    return None


def _refuse_other_inputs(name: str, model: PreTrainedModel, processor: BaseImageProcessor, kind: ClassKind) -> None:
    """Let the model see a picture as its processor makes it, and require a logit, or a map of them, a label."""
    from hf_compress.data.images import preprocess, refuse_many_sizes

    try:
        refuse_many_sizes(name, processor)
        with torch.no_grad():
            pixels = preprocess(processor, [torch.zeros(3, 64, 64, dtype=torch.uint8)])
            logits = model(pixel_values=pixels).logits
    except CompressError:
        raise
    except Exception as error:
        raise RunError(
            f"{name} cannot be used: {type(model).__name__} makes no logits of the pixel_values of its image "
            f"processor: {' '.join(str(error).split())}"
        ) from error
    shape = logits.shape
    if shape[:2] != (1, model.config.num_labels) or len(shape) != kind.dimensions:
        raise RunError(
            f"{name} cannot be used: {type(model).__name__} gives logits of shape {tuple(shape)} for one picture, "
            f"but its config names {model.config.num_labels} labels"
        )
    if bad := [key for key, weights in model.named_parameters() if not weights.isfinite().all()]:
        raise RunError(f"{name} cannot be used: {len(bad)} of its weights hold nan or infinity, '{bad[0]}' first")
    if not logits.isfinite().all():
        raise RunError(f"{name} cannot be used: its logits of a black picture are not finite")


def _refuse_missing_body(name: str, model: PreTrainedModel, missing: set[str]) -> None:
    """Let only the head of a checkpoint be untrained, and the pooling layer, which belongs to it."""
    prefix = f"{model.base_model_prefix}."
    lacks = sorted(key for key in missing if key.startswith(prefix) and ".pooler." not in key)
    if lacks:
        raise RunError(
            f"{name} cannot be loaded: its checkpoint lacks {len(lacks)} weights of its config, the first is "
            f"'{lacks[0]}'"
        )
