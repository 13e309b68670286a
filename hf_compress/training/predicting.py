"""What a model says to every image of a split, and how well that is."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import BaseImageProcessor, PreTrainedModel, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from hf_compress.data import Collator, ImageData, ImageSplit
from hf_compress.hub.load import LoadedModel
from hf_compress.layout import use_channels_last
from hf_compress.looking import same_random_state, twin
from hf_compress.measure.detail import by_class, reliability
from hf_compress.measure.quality import answered_right, quality
from hf_compress.memory import in_fitting_batches
from hf_compress.progress import EvaluationProgress
from hf_compress.training.arguments import EVALUATION_BATCH, transfer
from hf_compress.training.trainer import CompressionTrainer


@dataclass
class Predictions:
    """Outputs for a split: logits (images, classes) and labels (images,), on the CPU."""

    logits: Tensor
    labels: Tensor


def predict(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    images: ImageSplit,
    workers: int = 0,
    batch_size: int = EVALUATION_BATCH,
) -> Predictions:
    """Return the model's logits for every image of a split, without augmentation.

    When memory runs out, batches are halved; see `memory.in_fitting_batches`.
    """
    return in_fitting_batches(partial(_predict, model, processor, images, workers), batch_size)


def _predict(
    model: PreTrainedModel, processor: BaseImageProcessor, images: ImageSplit, workers: int, batch_size: int
) -> Predictions:
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),  # nothing is written there
        per_device_eval_batch_size=batch_size,
        dataloader_num_workers=workers,
        **transfer(),
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
    )
    model, progress = twin(model), EvaluationProgress()
    use_channels_last(model)
    with same_random_state(), progress.bar:
        trainer = CompressionTrainer(
            model=model, args=arguments, data_collator=Collator(processor), callbacks=[progress]
        )
        trainer.remove_callback(PrinterCallback)
        output = trainer.predict(images.without_augmentation())
    return Predictions(torch.tensor(output.predictions), torch.tensor(output.label_ids))


def evaluate(model: PreTrainedModel, processor: BaseImageProcessor, data: ImageData, split: str) -> dict[str, float]:
    """Return the quality of `model` on one split: see `measure.quality.quality`."""
    output = predict(model, processor, data.splits[split], data.workers)
    return quality(output.logits, output.labels)


def evaluate_in_detail(loaded: LoadedModel, data: ImageData, split: str) -> dict[str, Any]:
    """Return the parts of a report's row that tell how well a model classifies one split.

    Returns:
        `quality`, and where the logits are finite `classes` and `reliability`: see `measure.detail`. And `right`,
        which no report holds: for each labelled image whether it was answered right.
    """
    output = predict(loaded.model, loaded.processor, data.splits[split], data.workers)
    right = answered_right(output.logits, output.labels).int().tolist()
    result: dict[str, Any] = {"quality": quality(output.logits, output.labels), "right": {"accuracy": right}}
    if result["quality"] and output.logits.isfinite().all():
        result["classes"] = by_class(output.logits, output.labels)
        result["reliability"] = reliability(output.logits, output.labels)
    return result
