"""The images by which importance that is no matter of the weights alone is measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BaseImageProcessor, PreTrainedModel

from hf_compress.data.images import batches
from hf_compress.ground.looking import twin
from hf_compress.ground.processor import fastest_device

BATCH = 16


@dataclass(frozen=True)
class Calibration:
    """Images, and what a model should answer to them: their labels, or else what the unpruned model answers.

    Attributes:
        images: items of an `ImageSplit`, in a fixed order and without augmentation.
        processor: makes the model's inputs of them.
        unpruned: the model before any pruning.
    """

    images: torch.utils.data.Dataset
    processor: BaseImageProcessor
    unpruned: PreTrainedModel

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (batch, 3, height, width) and the class of each (batch,), on the device of the work."""
        device = fastest_device()
        unpruned = None
        for batch in track(batches(self.images, self.processor, BATCH), "Scoring importance", transient=True):
            images, labels = batch["pixel_values"].to(device), batch["labels"].to(device)
            if (labels < 0).any():
                unpruned = unpruned or twin(self.unpruned).to(device)
                with torch.no_grad():
                    labels = torch.where(labels < 0, unpruned(pixel_values=images).logits.argmax(dim=-1), labels)
            yield images, labels

    def gradients(self, model: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Yield the gradients of the mean cross-entropy of each batch, by the names of the parameters.

        `model` stays as it is: its mode, buffers and own gradients, too.
        """
        looked = twin(model).to(fastest_device()).requires_grad_()
        named = dict(looked.named_parameters(remove_duplicate=False))
        parameters = list({id(parameter): parameter for parameter in named.values()}.values())
        for images, labels in self.batches():
            loss = F.cross_entropy(looked(pixel_values=images).logits, labels)
            found = torch.autograd.grad(loss, parameters, materialize_grads=True)
            device = next(model.parameters()).device
            by_id = {id(parameter): grad.to(device) for parameter, grad in zip(parameters, found, strict=True)}
            yield {name: by_id[id(parameter)] for name, parameter in named.items()}
