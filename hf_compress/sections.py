"""Sections of a recipe: models, data, what is measured, and where it is published."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from hf_compress.config import MOST, Section, TrainingConfig
from hf_compress.errors import UsageError
from hf_compress.runtimes import RUNTIMES
from hf_compress.selection.config import AUTO, BudgetSection, ProbeSection


class ModelSection(Section):
    """A model: a Hub id, a local folder, a timm checkpoint (`timm/...`), or the name of a registered architecture."""

    model: str = Field(description="Hub id, folder, `timm/...`, or a name that `hf-compress students` lists.")
    revision: str | None = Field(None, description="Branch, tag or commit of the Hub repository.")
    trust_remote_code: bool = Field(
        False, description="Run the Python code that the repository contains; needs --trust-remote-code as well."
    )
    width: float = Field(1.0, gt=0, le=64, description="Width multiplier of a registered architecture.")
    image_size: int | None = Field(
        None, ge=8, le=8192, description="Input size in pixels of a registered architecture."
    )


class StudentSection(ModelSection):
    """The model that is compressed: `teacher` is a copy of the teacher, `auto` the best that fits a budget."""

    pretrained: bool = Field(True, description="Load the weights of a Hub id or folder; false starts from scratch.")
    budget: BudgetSection | None = Field(None, description="What a student that is selected (`auto`) may cost.")
    probe: ProbeSection | None = Field(None, description="How students are compared before one is selected.")

    @model_validator(mode="after")
    def _budget_belongs_to_auto(self):
        if self.model == AUTO:
            if self.budget is None:
                raise UsageError(
                    "'student.model: auto' needs 'student.budget', for example --set student.budget.latency_ms=5"
                )
            for option, default in (("width", 1.0), ("revision", None), ("pretrained", True)):
                if getattr(self, option) != default:
                    raise UsageError(
                        f"'student.{option}' does not go with 'student.model: auto': leave it at {default}"
                    )
        else:
            for option in ("budget", "probe"):
                if getattr(self, option) is not None:
                    raise UsageError(f"'student.{option}' selects a student: it needs 'student.model: auto'")
        return self


class TeacherFinetune(TrainingConfig):
    """Train the teacher on the data first."""

    layers: Literal["all", "head"] = Field("all", description="`head` trains the classifier only.")


class TeacherSection(ModelSection):
    finetune: TeacherFinetune | None = Field(None, description="Needed when the teacher's labels are not the data's.")

    @property
    def members(self) -> list[TeacherSection]:
        return [self]


class EnsembleSection(Section):
    """Several teachers, of which the mean of the softmax outputs is learnt."""

    ensemble: list[TeacherSection] = Field(min_length=2, description="Teachers; a string is a model.")

    @field_validator("ensemble", mode="before")
    @classmethod
    def _model_shorthand(cls, members: Any) -> Any:
        return all_named(members, "model")

    @property
    def members(self) -> list[TeacherSection]:
        return self.ensemble


class SplitsSection(Section):
    """Each split is a name of the data set (`train`, `test[:500]`) or a fraction (0.2), stratified and seeded.

    All three fractions divide all images; a fraction beside names is taken out of the training split. What is left
    out is found: `validation` and `test` by their usual names, or as a tenth of the training images.
    """

    train: str | float | None = None
    validation: str | float | None = None
    test: str | float | None = None

    @model_validator(mode="after")
    def _sensible(self):
        fractions = {k: v for k, v in vars(self).items() if isinstance(v, float)}
        if any(not 0 < value < 1 for value in fractions.values()):
            raise ValueError("a fraction lies between 0 and 1")
        if isinstance(self.train, float) and len(fractions) < 3:
            raise ValueError("a fraction for train needs fractions for validation and test, too")
        if sum(fractions.values()) > 1 + 1e-6:
            raise ValueError("the fractions add up to more than 1")
        return self


class SourceSection(Section):
    """Where images come from."""

    path: str = Field(
        description="Hub id, folder of images (one folder a class), folder of parquet files, or `digits`."
    )
    name: str | None = Field(None, description="Configuration of a Hub data set.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub data set.")
    image_column: str | None = Field(None, description="Found by its type when not given.")


class UnlabelledSection(SourceSection):
    """Images whose labels, if there are any, are not looked at."""

    split: str | None = Field(None, description="`train`, `unlabeled`, `train[:500]`, ...; all images when not given.")


class DataSection(SourceSection):
    splits: SplitsSection = Field(default_factory=SplitsSection)
    label_column: str | None = Field(None, description="Found by its type when not given.")
    labelled: float = Field(
        1.0, gt=0, le=1, description="Fraction of the training images that keep their labels; the rest is unlabelled."
    )
    unlabelled: list[UnlabelledSection] = Field([], description="More images, from which distillations learn, too.")
    augmentation: Literal["none", "light", "standard"] = Field(
        "none", description="`light`: shift and mirror; `standard`: random crop, mirror and colour."
    )
    views: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Augmented views of an image, shown in turn, one an epoch, so that a teacher sees each only once; "
        "endlessly many when not given.",
    )
    on_corrupt: Literal["skip", "stop"] = Field("skip", description="What to do with an image that cannot be decoded.")
    on_leak: Literal["warn", "stop", "drop"] = Field(
        "warn",
        description="What to do with pictures of the test or validation images that are in another split, too; `drop` "
        "takes them out of that one.",
    )
    workers: int = Field(0, ge=0, le=512, description="Processes that decode images; 0 decodes in the main process.")
    cache_mb: int = Field(1024, ge=0, le=2**30, description="Memory, in MiB, for images that are decoded only once.")
    streaming: bool = Field(False, description="Read training images anew for each epoch, and keep none on the disk.")
    train_images: int | None = Field(
        None,
        ge=1,
        le=10**12,
        description="Images in an epoch of a stream; all that the data set says it has when not given.",
    )

    @field_validator("unlabelled", mode="before")
    @classmethod
    def _source_shorthand(cls, sources: Any) -> Any:
        return all_named(sources, "path")

    @model_validator(mode="after")
    def _views_are_augmented(self):
        if self.views is not None and self.augmentation == "none":
            raise ValueError("views are made by an augmentation: set augmentation, or leave out views")
        return self

    @model_validator(mode="after")
    def _can_stream(self):
        if not self.streaming:
            if self.train_images is not None:
                raise ValueError("train_images is for a stream: set 'streaming: true', or 'splits.train: train[:N]'")
            return self
        if self.path == "digits":
            raise ValueError("digits are in memory: leave out streaming")
        if self.views is not None:
            raise ValueError("images of a stream are not kept, so their views do not repeat: leave out views")
        if self.unlabelled or self.labelled < 1:
            raise ValueError("a stream cannot be mixed or divided: leave out 'unlabelled' and 'labelled'")
        if any(isinstance(split, float) or "[" in (split or "") for split in vars(self.splits).values()):
            raise ValueError("a stream cannot be divided: give 'splits' names of splits, not fractions or slices")
        return self

    @model_validator(mode="after")
    def _no_test_images(self):
        if any(source.path == self.path and source.split is None for source in self.unlabelled):
            raise ValueError("unlabelled holds the data set itself, with its test images: name the split to take")
        return self


class MeasureSection(Section):
    batch_size: int = Field(64, ge=1, le=MOST, description="Second batch size of the latency table, beside 1.")
    threads: int | None = Field(None, ge=1, le=4096, description="CPU threads; all cores when not given.")
    repeats: int = Field(30, ge=3, le=MOST, description="Timed forward passes a model and batch size.")
    runtimes: list[Literal["eager", "compile", "onnxruntime"]] = Field(
        ["eager"], description="Where latency is measured; `eager` always is. `onnxruntime` needs hf-compress[onnx]."
    )


class DeploySection(Section):
    """One file for another runtime, written of the final model and measured there; a string is the runtime."""

    to: str = Field(description="onnx, openvino, executorch, litert, pt2, or a runtime of another package.")
    int8: bool = Field(False, description="8-bit weights and activations; without it the file is in float32.")
    images: int = Field(128, ge=1, le=MOST, description="Training images that set the ranges of int8 activations.")

    @model_validator(mode="after")
    def _can_be_written(self):
        RUNTIMES.known(self.to)
        if self.int8 and not RUNTIMES.get(self.to).int8:
            able = " or ".join(name for name in RUNTIMES if RUNTIMES.get(name).int8)
            raise UsageError(f"{self.to} has no int8 here: choose {able}, or leave int8 out")
        return self

    @property
    def stage(self) -> str:
        """What the report calls it."""
        return f"{self.to} int8" if self.int8 else self.to


class PublishSection(Section):
    """Where the finished run folder is published; `hf-compress publish` has the same options."""

    to: str = Field(description="Repository on the Hub: user/name.")
    private: bool = Field(False, description="Make the repository private; a public one is refused.")
    revision: str | None = Field(None, description="Branch to commit to; made when missing.")
    create_pr: bool = Field(False, description="Open a pull request instead of committing.")
    message: str = Field("Publish with hf-compress", min_length=1, description="Commit message.")
    license: str | None = Field(None, description="Identifier of the licence; that of the teacher when not given.")
    template: str | None = Field(None, description="Jinja template of the card, instead of the package's own.")

    @field_validator("to")
    @classmethod
    def _is_an_id(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", value) or value.endswith(".git"):
            raise ValueError("a repository is named user/name")
        return value

    @field_validator("license")
    @classmethod
    def _is_an_identifier(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", value):
            raise ValueError("give one of the Hub's licence identifiers, such as apache-2.0 or cc-by-4.0")
        return value

    @model_validator(mode="after")
    def _one_target(self):
        if self.create_pr and self.revision:
            raise ValueError("a pull request goes to the main branch: leave out create_pr or revision")
        return self


def named(value: Any, key: str) -> Any:
    """A string stands for a section in which it is the value of `key`."""
    return {key: value} if isinstance(value, str) else value


def all_named(values: Any, key: str) -> Any:
    """The same for every item of a list."""
    return [named(value, key) for value in values] if isinstance(values, list) else values
