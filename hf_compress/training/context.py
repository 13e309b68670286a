"""What a training, and so a step, is given to work with."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_compress.ground import processes
from hf_compress.sections.measure import MeasureSection
from hf_compress.tasks.base import Task
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.training.tracking import PART, Tracking

if TYPE_CHECKING:
    from torch import nn
    from transformers import BaseImageProcessor

    from hf_compress.data import ImageData
    from hf_compress.models.load import LoadedModel


@dataclass(frozen=True)
class Context:
    """What a step may use besides the model. It stays as it is: what later steps need stands in the step's result.

    Attributes:
        data: training, validation and test images; a step decides on validation, never on test.
        processor: the image processor of the model that is compressed.
        teacher: the recipe's teacher, or None.
        seed: seed of everything random.
        work_folder: where checkpoints of the training in progress lie, and finished rounds of pruning.
        sparse_parameters: names of parameters whose zeros must stay zero.
        projector: maps the student's embeddings to the teacher's where an earlier step learnt to.
        log: prints one line for the user.
        task: what the models are for.
        measure: how the recipe wants time to be measured.
        tracking: where trainings are tracked, or None.
        resumable: whether what lies in `work_folder` is an earlier part of this very work; False starts anew.
    """

    data: ImageData
    processor: BaseImageProcessor
    teacher: LoadedModel | None
    seed: int
    work_folder: Path
    sparse_parameters: frozenset[str] = frozenset()
    projector: nn.Linear | None = None
    log: Any = print
    task: Task = CLASSIFICATION
    measure: MeasureSection = field(default_factory=MeasureSection)
    tracking: Tracking | None = None
    resumable: bool = False
    _numbers: Iterator[int] = field(default_factory=lambda: count(1), init=False, repr=False)

    def part(self) -> Path:
        """Return a folder for the next training, or the next rounds of pruning, of a step."""
        folder = self.work_folder / f"{PART}{next(self._numbers)}"
        if not self.resumable:
            if processes.is_main():
                shutil.rmtree(folder, ignore_errors=True)
            processes.wait()
        return folder
