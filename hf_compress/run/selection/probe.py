"""A probe: the recipe's first training, made short."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from transformers import set_seed

from hf_compress.data import ImageData, ImageSplit
from hf_compress.ground.errors import RunError
from hf_compress.models.load import LoadedModel
from hf_compress.run.recipe import Recipe
from hf_compress.run.selection.candidates import Blueprint, Candidate
from hf_compress.sections.models import ProbeSection
from hf_compress.steps import STEPS
from hf_compress.tasks import TASKS
from hf_compress.training.context import Context


@dataclass(frozen=True)
class Probe:
    """Trains candidates by the recipe's first step that trains, on few images and for few epochs.

    Attributes:
        data: few images; see `few_images`.
        epochs: of the first rung.
    """

    recipe: Recipe
    blueprint: Blueprint
    data: ImageData
    teacher: LoadedModel | None
    epochs: int
    folder: Path
    log: Callable[[str], None]

    def __call__(self, candidate: Candidate, rung: int) -> float:
        """Return the validation accuracy of the best epoch, 0 where the training diverged.

        Every probe begins with the recipe's seed, whatever ran before it.
        """
        name, config = self.recipe.probed_step()
        step = STEPS.get(name)(config.model_copy(update={"epochs": self.epochs * 2**rung, "minutes": None}))
        set_seed(self.recipe.seed)
        student = self.blueprint.build(candidate)
        processors = [loaded.processor for loaded in (student, self.teacher) if loaded is not None]
        data = self.data.augmented(self.recipe.data.augmentation, *processors)
        context = Context(
            data,
            student.processor,
            self.teacher,
            self.recipe.seed,
            self.folder,
            log=lambda line: None,
            task=TASKS.get(self.recipe.task),
        )
        try:
            epochs = step.apply(student.model, context).details["epochs"]
        except RunError as error:
            self.log(f"  {candidate}: {error}")
            return 0.0
        metric = context.task.deciding
        values = [epoch[f"validation_{metric.name}"] for epoch in epochs]
        best = values[metric.best(values)]
        self.log(f"  rung {rung + 1}, {len(epochs)} epochs: {candidate} has validation {metric.words} {best:.4f}")
        return best


def few_images(data: ImageData, section: ProbeSection, seed: int) -> ImageData:
    """Return data with at most `section.images` random images in each part but the test images."""
    parts = {name: part for name, part in vars(data).items() if isinstance(part, ImageSplit) and part is not data.test}
    return replace(data, stream=None, **{name: _sample(part, section.images, seed) for name, part in parts.items()})


def _sample(split: ImageSplit, number: int, seed: int) -> ImageSplit:
    count = min(number, len(split))
    return split.subset(np.sort(np.random.default_rng(seed).choice(len(split), count, replace=False)))
