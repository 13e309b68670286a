"""Sections that name models: teacher, ensemble, student, and how one is selected."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hf_compress.ground.errors import UsageError
from hf_compress.sections.base import MOST, Section, TrainingConfig, shorthand

AUTO = "auto"
TEACHER = "teacher"


def _most(description: str) -> Any:
    return Field(None, gt=0, allow_inf_nan=False, description=description)


class BudgetSection(Section):
    """The most that a student may cost; at least one bound."""

    parameters: float | None = _most("Number of parameters.")
    macs: float | None = _most("Multiply-accumulates for one image.")
    bytes: float | None = _most("Size of the checkpoint in float32.")
    latency_ms: float | None = _most("Median latency of one image on this device, in PyTorch, in milliseconds.")

    @model_validator(mode="after")
    def _at_least_one(self):
        if not self.limits:
            raise ValueError(f"name at least one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Return the bounds that were named."""
        return {key: limit for key, limit in vars(self).items() if limit is not None}


class ProbeSection(Section):
    """Short trainings in which students compete."""

    candidates: int = Field(6, ge=1, le=MOST, description="Students that compete.")
    images: int = Field(
        1000, ge=1, le=MOST, description="Training images of a probe, and at most as many validation images."
    )
    epochs: int = Field(
        2, ge=1, le=MOST, description="Epochs in the first rung; they double in each of the following."
    )


class ModelSection(Section):
    """A model: a Hub id, a local folder, a timm checkpoint (`timm/...`), or the name of a registered architecture."""

    model: str = Field(description="Hub id, folder, `timm/...`, or a name that `hf-compress students` lists.")
    revision: str | None = Field(None, description="Branch, tag or commit of the Hub repository.")
    trust_remote_code: bool = Field(
        False, description="Run the Python code that the repository contains; needs --trust-remote-code as well."
    )
    width: float = Field(1.0, gt=0, le=64, description="Width multiplier of a registered architecture.")
    image_size: int | None = Field(
        None, ge=8, le=8192, description="Input size in pixels; that of the checkpoint, or 224, when not given."
    )


class StudentSection(ModelSection):
    """The model that is compressed: `teacher` is a copy of the teacher, `auto` the best that fits a budget."""

    width: float = Field(
        1.0,
        gt=0,
        le=64,
        description="Width multiplier of a registered architecture; of a copy of the teacher, which keeps the "
        "channels that matter most, at most 1.",
    )
    depth: float = Field(1.0, gt=0, le=1, description="Share of the residual blocks that a copy of the teacher keeps.")
    pretrained: bool | str = Field(
        True,
        description="Load the weights of a Hub id or folder; false starts from scratch. A registered architecture "
        "does, unless this is `auto`, the checkpoint that `hf-compress students` lists, or a Hub id or folder. One "
        "that is selected begins with a checkpoint where there is one, unless this is false.",
    )
    budget: BudgetSection | None = Field(None, description="What a student that is selected (`auto`) may cost.")
    probe: ProbeSection | None = Field(None, description="How students are compared before one is selected.")

    @model_validator(mode="after")
    def _budget_belongs_to_auto(self):
        if self.model == AUTO:
            if self.budget is None:
                raise UsageError(
                    "'student.model: auto' needs 'student.budget', for example --set student.budget.latency_ms=5"
                )
            defaults = {"width": 1.0, "depth": 1.0, "revision": None, "pretrained": bool(self.pretrained)}
            for option, default in defaults.items():
                if getattr(self, option) != default:
                    raise UsageError(
                        f"'student.{option}' does not go with 'student.model: auto': leave it at {default}"
                    )
        else:
            for option in ("budget", "probe"):
                if getattr(self, option) is not None:
                    raise UsageError(f"'student.{option}' selects a student: it needs 'student.model: auto'")
        return self

    @model_validator(mode="after")
    def _takes_from_the_teacher(self):
        if self.model != TEACHER:
            if self.depth != 1:
                raise UsageError("'student.depth' is of a copy of the teacher: it needs 'student.model: teacher'")
        elif self.width > 1:
            raise UsageError(f"'student.width' {self.width:g} is more than the teacher has: its copies take at most 1")
        elif self.pretrained is not True:
            raise UsageError("'student.pretrained' does not go with 'student.model: teacher', whose weights it takes")
        return self

    @property
    def is_thinner(self) -> bool:
        """Whether it is a copy of the teacher that has fewer channels or blocks."""
        return self.model == TEACHER and (self.width < 1 or self.depth < 1)

    @property
    def is_teacher(self) -> bool:
        """Whether it is the teacher as it is."""
        return self.model == TEACHER and not self.is_thinner and self.image_size is None


class TeacherFinetune(TrainingConfig):
    """Train the teacher on the data first."""

    layers: Literal["auto", "all", "head"] = Field(
        "auto",
        description="`head` trains the classifier only. `auto` trains all, but first tries the head alone where it is "
        "new on a pretrained body and has fewer than 1000 images: the better on validation images stays.",
    )
    always: bool = Field(
        False, description="Train a checkpoint that knows the data's labels already, too; it is not trained otherwise."
    )


class TeacherSection(ModelSection):
    finetune: TeacherFinetune | None = Field(None, description="Needed when the teacher's labels are not the data's.")

    @property
    def members(self) -> list[TeacherSection]:
        return [self]


class EnsembleSection(Section):
    """Several teachers, of which the mean of the softmax outputs is learnt."""

    ensemble: list[Annotated[TeacherSection, shorthand(TeacherSection, "model")]] = Field(
        min_length=2, description="Teachers; a string is a model."
    )

    @property
    def members(self) -> list[TeacherSection]:
        return self.ensemble
