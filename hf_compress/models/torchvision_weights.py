"""Weights of torchvision's classifiers, by name or in a file: a folder in Hub form where timm has the same names."""

from __future__ import annotations

import atexit
import pickle
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hf_compress.checkpoint.labels import label_options
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.files import user_path
from hf_compress.ground.registry import did_you_mean

PREFIX, SUFFIX = "torchvision:", ".pth"


def is_of_torchvision(name: str | Path) -> bool:
    """Return whether a name is `torchvision:ARCHITECTURE`, or a file of weights such as `resnet18-mine.pth`."""
    return str(name).startswith(PREFIX) or str(name).endswith(SUFFIX)


@cache
def torchvision_folder(name: str) -> str:
    """Return a folder in Hub form with the weights, which is gone with the process.

    The model in it is timm's of that name, through transformers' wrapper: its weights have the same names and shapes.

    Raises:
        UsageError: there is no such file or architecture, or timm's has other weights.
        RunError: the weights cannot be downloaded, or the file holds more than weights.
    """
    from transformers import AutoModelForImageClassification, TimmWrapperConfig

    architecture, state = _found(name)
    shown, labels = _told(architecture)
    classes = _classes(name, architecture, state)
    names = labels if len(labels) == classes else [f"LABEL_{index}" for index in range(classes)]
    options = {"architecture": architecture, "pretrained_cfg": shown, "model_args": None}
    model = AutoModelForImageClassification.from_config(TimmWrapperConfig(**options, **label_options(names)))
    model.timm_model.load_state_dict(state)
    folder = tempfile.mkdtemp(prefix="hf-compress-torchvision-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    model.save_pretrained(folder)
    return folder


def _found(name: str) -> tuple[str, dict[str, Tensor]]:
    """Return the architecture, and its weights."""
    if name.startswith(PREFIX):
        architecture = name.removeprefix(PREFIX)
        weights = _weights(architecture, f"write {PREFIX}resnet18")
        try:
            return architecture, weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
        except OSError as error:
            raise RunError(f"the weights of {name} cannot be downloaded from {weights.url}: {error}") from None
    path = user_path(name)
    if not path.is_file():
        raise UsageError(f"there is no file '{name}'")
    architecture = path.name.partition(".")[0].partition("-")[0]
    _weights(architecture, f"'{path.name}' must begin with its architecture, as resnet18-mine.pth does")
    return architecture, _read(name)


def _read(name: str) -> dict[str, Tensor]:
    """Return the state dict in a file; nothing of a pickle but tensors and plain containers is ever built."""
    try:
        state = torch.load(user_path(name), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise RunError(f"'{name}' is not read, since it is damaged or holds more than weights: {reason}") from None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise RunError(f"'{name}' holds no state dict: write it with torch.save(model.state_dict(), file)")
    return state


def _weights(architecture: str, hint: str) -> Any:
    """Return torchvision's best weights of a classifier."""
    from torchvision import models

    known = models.list_models(models)
    if architecture not in known:
        raise UsageError(f"torchvision has no classifier '{architecture}' ({hint}){did_you_mean(architecture, known)}")
    return models.get_model_weights(architecture).DEFAULT


def _told(architecture: str) -> tuple[dict[str, Any], list[str]]:
    """Return how pictures are made for the architecture, in timm's form, and the names of its classes, each once."""
    weights = _weights(architecture, "")
    view, names = weights.transforms(), weights.meta["categories"]
    side = view.crop_size[0]
    shown = {
        "input_size": [3, side, side],
        "crop_pct": side / view.resize_size[0],
        "interpolation": view.interpolation.value,
        "mean": list(view.mean),
        "std": list(view.std),
    }
    return shown, [f"{name} ({n})" if names.count(name) > 1 else name for n, name in enumerate(names)]


def _classes(name: str, architecture: str, state: dict[str, Tensor]) -> int:
    """Return the number of classes of a state dict that fits timm's architecture of that name."""
    import timm

    told = timm.get_pretrained_cfg(architecture) if timm.is_model(architecture) else None
    weight = state.get(f"{told.classifier}.weight") if told else None
    if weight is not None:
        with torch.device("meta"):
            wanted = timm.create_model(architecture, num_classes=len(weight)).state_dict()
        if {key: tensor.shape for key, tensor in state.items()} == {key: t.shape for key, t in wanted.items()}:
            return len(weight)
    raise UsageError(
        f"{name} cannot be a model of a recipe: timm has no '{architecture}' with the same weights; as a plain module "
        "it can be pruned by hf_compress.prune"
    )
