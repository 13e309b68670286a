"""What happens beside the steps of a training."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from transformers import TrainerCallback

from hf_compress.data import ImageSplit
from hf_compress.losses.criterion import DistillationCriterion


class ClearGradients(TrainerCallback):
    """Clears the gradients of a criterion's projectors; the Trainer clears only the model's own."""

    def __init__(self, criterion: DistillationCriterion):
        self.criterion = criterion

    def on_step_end(self, args, state, control, **kwargs):
        for parameter in self.criterion.parameters():
            parameter.grad = None


class ShowEpoch(TrainerCallback):
    """Tells images in which epoch they are shown; accelerate tells its own sampler only."""

    def __init__(self, images: ImageSplit):
        self.images = images

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.images.epoch = round(state.epoch)


class HoldMasks(TrainerCallback):
    """Keeps pruned weights at zero: what is zero in these parameters now stays zero."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self.parameters = list(parameters)
        self.set_masks()

    def set_masks(self) -> None:
        """Hold what is zero now."""
        self.masks = [parameter.detach() != 0 for parameter in self.parameters]

    def on_train_begin(self, args, state, control, **kwargs):
        pairs = zip(self.masks, self.parameters, strict=True)
        self.masks = [mask.to(parameter.device) for mask, parameter in pairs]

    def on_optimizer_step(self, args, state, control, **kwargs):
        with torch.no_grad():
            for parameter, mask in zip(self.parameters, self.masks, strict=True):
                parameter.masked_fill_(~mask, 0)
