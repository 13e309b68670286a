"""A linear probe: the head of a pretrained model, solved for on what its frozen body gives."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from hf_compress.data.images import IGNORED_LABEL, batches
from hf_compress.ground.errors import RunError
from hf_compress.ground.looking import twin
from hf_compress.ground.memory import in_fitting_batches
from hf_compress.ground.processor import fastest_device
from hf_compress.models.head import find_head
from hf_compress.training.arguments import EVALUATION_BATCH
from hf_compress.training.context import Context

if TYPE_CHECKING:
    from hf_compress.data import ImageSplit

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse strengths of the L2 penalty that are tried: the more, the less it counts. For features of deviation 1."""


def solve_head(model: nn.Module, context: Context) -> float:
    """Give a model the linear classifier that is best on what its body says to the labelled training images.

    That is multinomial logistic regression on standardised features, without augmentation; of the `STRENGTHS` of its
    penalty the one with the least cross-entropy on validation images.

    Args:
        model: in eval mode; all but its head stays as it is.

    Returns:
        The strength that was taken.

    Raises:
        RunError: its head is not one linear layer with a bias.
    """
    name = _linear_head(model, context)
    features, labels = _seen_by(name, model, context.data.train, context)
    held_out, answers = _seen_by(name, model, context.data.validation, context)
    classes = range(model.config.num_labels)
    best, least = None, math.inf
    for strength in STRENGTHS:
        solved = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000)).fit(features, labels)
        if (loss := log_loss(answers, solved.predict_proba(held_out), labels=classes)) < least:
            best, least = solved, loss
    scaler, regression = best
    weight, bias = regression.coef_, regression.intercept_
    if len(weight) == 1:  # of two classes, the second's against the first's
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scaler.scale_
    head = model.get_submodule(name)
    with torch.no_grad():
        head.weight.copy_(torch.from_numpy(weight))
        head.bias.copy_(torch.from_numpy(bias - weight @ scaler.mean_))
    return regression.C


def _linear_head(model: nn.Module, context: Context) -> str:
    names = find_head(model, context.processor)
    layers = {name.rpartition(".")[0] for name in names}
    name = next(iter(layers))
    if len(layers) > 1 or len(names) < 2 or not isinstance(model.get_submodule(name), nn.Linear):
        raise RunError(f"it is not one linear layer with a bias ({', '.join(names)})")
    return name


def _seen_by(name: str, model: nn.Module, images: ImageSplit, context: Context) -> tuple[np.ndarray, np.ndarray]:
    """Return what comes to a layer for each labelled image, (images, features), and the labels."""
    labels = np.array(images.labels)
    labelled = np.flatnonzero(labels != IGNORED_LABEL)
    device, looked_at = fastest_device(), twin(model)
    looked_at.to(device)

    def run(batch_size: int) -> np.ndarray:
        seen = []
        layer = looked_at.get_submodule(name)
        hook = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0].double().cpu().numpy()))
        with torch.no_grad():
            for batch in batches(images.subset(labelled).without_augmentation(), context.processor, batch_size):
                looked_at(pixel_values=batch["pixel_values"].to(device))
        hook.remove()
        return np.concatenate(seen)

    return in_fitting_batches(run, EVALUATION_BATCH), labels[labelled]
