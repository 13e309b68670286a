"""The images by which importance that is no matter of the weights alone is measured."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from transformers import BaseImageProcessor, PreTrainedModel

from hf_compress.data.annotations import as_item
from hf_compress.data.images import IGNORED_LABEL, fitting_batch, preprocess
from hf_compress.ground.looking import twin
from hf_compress.ground.processor import fastest_device
from hf_compress.ground.progress import track
from hf_compress.tasks.base import Predictions, Task

BATCH = 16


@dataclass(frozen=True)
class Calibration:
    """Images, and what a model should answer to them: their labels, or else what the unpruned model answers.

    Attributes:
        images: items of an `ImageSplit`, in a fixed order and without augmentation.
        processor: makes the model's inputs of them.
        unpruned: the model before any pruning.
        task: what the model is for.
    """

    images: Dataset
    processor: BaseImageProcessor
    unpruned: PreTrainedModel
    task: Task

    def first(self, count: int) -> Calibration:
        """Return the same with at most `count` of the images; of pictures of more than 224 x 224 pixels fewer."""
        count = min(fitting_batch(self.processor, count), len(self.images))
        return replace(self, images=Subset(self.images, range(count)))

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (batch, 3, height, width) and their `Task.targets`, on the device of the work.

        In classification these are the class of each image, shape (batch,).
        """
        return ((batch["pixel_values"], batch["labels"]) for batch in self._batches())

    def pixel_values(self) -> Iterator[Tensor]:
        """Yield the images alone, shape (batch, 3, height, width), on the device of the work."""
        for items in DataLoader(self.images, fitting_batch(self.processor, BATCH), collate_fn=list):
            yield preprocess(self.processor, [item["view"] for item in items]).to(fastest_device())

    def gradients(self, model: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Yield the gradients of the task's loss of each batch, by the names of the parameters.

        `model` stays as it is: its mode, buffers and own gradients, too.
        """
        looked = twin(model).to(fastest_device()).requires_grad_()
        named = dict(looked.named_parameters(remove_duplicate=False))
        parameters = list({id(parameter): parameter for parameter in named.values()}.values())
        for batch in self._batches():
            loss = self.task.loss(self.task.forward(looked, batch), batch)
            found = torch.autograd.grad(loss, parameters, materialize_grads=True)
            device = next(model.parameters()).device
            by_id = {id(parameter): grad.to(device) for parameter, grad in zip(parameters, found, strict=True)}
            yield {name: by_id[id(parameter)] for name, parameter in named.items()}

    def _batches(self) -> Iterator[dict[str, Tensor]]:
        """Yield what the task's loss takes."""
        device, unpruned = fastest_device(), None
        loader = DataLoader(self.images, fitting_batch(self.processor, BATCH), collate_fn=list)
        for items in track(loader, "Scoring importance"):
            images = preprocess(self.processor, [item["view"] for item in items]).to(device)
            if self.task.needs_targets and any(item["label"] == IGNORED_LABEL for item in items):
                unpruned = unpruned or twin(self.unpruned).to(device)
                items = self._answered(items, images, unpruned, self.task.targets(items, self.processor)["labels"])
            targets = self.task.targets(items, self.processor)
            yield {"pixel_values": images} | {name: tensor.to(device) for name, tensor in targets.items()}

    def _answered(
        self, items: list[dict[str, Any]], images: Tensor, unpruned: nn.Module, labels: Tensor
    ) -> list[dict[str, Any]]:
        """Return the items with the unpruned model's answers where they have no label."""
        with torch.no_grad():
            outputs = {name: tensor.cpu() for name, tensor in self.task.answer(unpruned, images).items()}
        answers = self.task.as_targets(Predictions(outputs, labels))
        return [
            item | {"label": as_item(answer)} if item["label"] == IGNORED_LABEL else item
            for item, answer in zip(items, answers, strict=True)
        ]
