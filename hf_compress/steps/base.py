"""The interface of a step, and what it is given to work with."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from hf_compress import processes
from hf_compress.config import Section
from hf_compress.registry import Registry
from hf_compress.tasks.base import Task
from hf_compress.tasks.classification import CLASSIFICATION

if TYPE_CHECKING:
    from torch import nn
    from transformers import BaseImageProcessor, PreTrainedModel

    from hf_compress.data import ImageData
    from hf_compress.hub.load import LoadedModel

C = TypeVar("C", bound=Section)


@dataclass
class Context:
    """What a step may use besides the model.

    Attributes:
        data: training, validation and test images; a step decides on validation, never on test.
        processor: the image processor of the model that is compressed.
        teacher: the recipe's teacher, or None.
        seed: seed of everything random.
        work_folder: where checkpoints of the training in progress lie, and finished rounds of pruning.
        sparse_parameters: names of parameters whose zeros must stay zero, added by weight pruning.
        projector: maps the student's embeddings to the teacher's where their widths differ, added by feature
            distillation.
        log: prints one line for the user.
        artifacts: where a step puts files that belong into the run folder beside the model; None keeps them in
            `work_folder`.
        task: what the models are for.
        resumable: whether what lies in `work_folder` is an earlier part of this very work; False starts anew.
    """

    data: ImageData
    processor: BaseImageProcessor
    teacher: LoadedModel | None
    seed: int
    work_folder: Path
    sparse_parameters: set[str] = field(default_factory=set)
    projector: nn.Linear | None = None
    log: Any = print
    artifacts: Path | None = None
    task: Task = CLASSIFICATION
    resumable: bool = False
    parts: int = field(default=0, init=False)

    def part(self) -> Path:
        """Return a folder for the next training, or the next rounds of pruning, of a step."""
        self.parts += 1
        folder = self.work_folder / f"part-{self.parts}"
        if not self.resumable:
            if processes.is_main():
                shutil.rmtree(folder, ignore_errors=True)
            processes.wait()
        return folder


@dataclass
class StepResult:
    """A step's model and the details that belong into its row of the report."""

    model: PreTrainedModel
    details: dict[str, Any]


class Step(ABC, Generic[C]):
    """Model in, model out. No step knows another step.

    Attributes:
        Config: pydantic class of the step's section in the recipe.
        task: the recipe's `task` that the step is made for; None for one that works for many.
        alone: whether of several processes the main one does it, and the others wait: it trains nothing.
        needs_teacher: whether a recipe without teacher is wrong.
    """

    Config: ClassVar[type[Section]]
    task: ClassVar[str | None] = None
    alone: ClassVar[bool] = False

    def __init__(self, config: C):
        self.config = config

    @property
    def needs_teacher(self) -> bool:
        return False

    def foresee(self, student: Callable[[], LoadedModel]) -> None:
        """Raise where the step cannot do what its section asks for, before any training begins.

        Args:
            student: loads a model of the architecture that the step will get; its weights may be any.
        """

    @abstractmethod
    def apply(self, model: PreTrainedModel, context: Context) -> StepResult:
        """Return the changed model; `model` itself may be changed in place."""


STEPS: Registry[type[Step]] = Registry("step", "hf_compress.steps")
register_step = STEPS.register
