"""Training of a backbone towards a teacher's embeddings."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from hf_compress.data import Collator, ImageSplit
from hf_compress.measure.features import cosine_similarity
from hf_compress.models.embeddings import Embedder, embedding_width, pooled_embedding
from hf_compress.models.load import LoadedModel
from hf_compress.sections.base import TrainingConfig
from hf_compress.steps.base import StepResult
from hf_compress.training.budget import Budget
from hf_compress.training.callbacks import ShowEpoch
from hf_compress.training.context import Context
from hf_compress.training.fitting import fit
from hf_compress.training.resumable import Resumable
from hf_compress.training.teacher_outputs import answered
from hf_compress.training.trainer import DistillationTrainer


class FeatureTrainer(Resumable, DistillationTrainer):
    """Trains an `Embedder`: the loss is its mean squared distance from the teacher's embeddings; no label is read."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        run = self.in_training(model) if model.training else model
        embeddings = run(pixel_values=inputs["pixel_values"]).float()
        targets = inputs.get("teacher_outputs")
        if targets is None:
            with torch.no_grad():
                targets = pooled_embedding(self.in_training(self.teacher), inputs["teacher_pixel_values"]).float()
        else:
            targets = targets["embeddings"]
        loss = F.mse_loss(embeddings, targets)
        if model.training:
            self.stop_unless_finite(loss)
        return (loss, {"embeddings": embeddings, "targets": targets}) if return_outputs else loss


def distil_features(model: PreTrainedModel, context: Context, config: TrainingConfig) -> StepResult:
    """Train `model` in place to give the teacher's embeddings; the epoch with the best validation cosine is kept.

    Where the two widths differ, a linear projector from the student's embeddings to the teacher's is trained with it,
    and a later step goes on with it.

    Returns:
        The model, the projector, and details for the report: widths, the best epoch and one row an epoch; and, to read
        their similarities against, that of a model which always gives the teacher's mean embedding.

    Raises:
        RunError: the loss is not finite.
    """
    budget, teacher = Budget(config), context.teacher
    width = embedding_width(LoadedModel(model, context.processor, "the student"))
    teacher_width = embedding_width(teacher)
    projector = context.projector
    if projector is None and width != teacher_width:
        torch.manual_seed(context.seed)
        projector = nn.Linear(width, teacher_width)
    ask = partial(answered, teacher=teacher, context=context)
    validation = ask(context.data.validation, epochs=1)
    baseline = _similarity_of_mean(validation.teacher_outputs[0]["embeddings"])
    context.log(f"the teacher's mean embedding for every image: validation cosine similarity {baseline:.4f}")
    embedder = Embedder(model, projector)

    def build(images: ImageSplit, **options: Any) -> FeatureTrainer:
        return FeatureTrainer(
            model=embedder,
            data_collator=Collator(context.processor, teacher.processor),
            train_dataset=images,
            eval_dataset=validation,
            compute_metrics=lambda output: {
                "cosine_similarity": cosine_similarity(*map(torch.tensor, output.predictions))
            },
            callbacks=[ShowEpoch(images)],
            teacher=teacher.model if images.teacher_outputs is None else None,
            task=context.task,
            compile=config.compile,
            **options,
        )

    details = {
        "width": width,
        "teacher_width": teacher_width,
        "validation_cosine_similarity_of_mean": baseline,
        **fit(build, context.data.with_unlabelled, ask, budget, context),
    }
    return StepResult(model, details, projector=projector)


def _similarity_of_mean(targets: Tensor) -> float:
    return cosine_similarity(targets.mean(dim=0).expand_as(targets), targets)
