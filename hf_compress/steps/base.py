"""The interface of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from hf_compress.ground.registry import Registry
from hf_compress.sections.base import Section
from hf_compress.training.context import Context

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from hf_compress.models.load import LoadedModel

C = TypeVar("C", bound=Section)


@dataclass(frozen=True)
class StepResult:
    """What a step leaves.

    Attributes:
        model: the changed model.
        details: belong into the step's row of the report.
        sparse_parameters: names of parameters whose zeros later steps must keep.
        projector: maps the model's embeddings to the teacher's, for later steps; None leaves an earlier one.
    """

    model: PreTrainedModel
    details: dict[str, Any]
    sparse_parameters: frozenset[str] = frozenset()
    projector: nn.Linear | None = None


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

    @property
    def distils(self) -> bool:
        """Whether something is learnt from a teacher, be it the recipe's or the unpruned model."""
        return self.needs_teacher

    def on_labels(self) -> Step | None:
        """Return the step of a control, which learns the same from the labels alone; None where it cannot.

        The context that it is given has no teacher.
        """
        return None if self.needs_teacher else self

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
