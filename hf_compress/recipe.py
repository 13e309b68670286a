"""The recipe: everything a run needs, read from YAML."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, SerializeAsAny, field_validator, model_validator
from pydantic.json_schema import models_json_schema

from hf_compress.config import Section, TrainingConfig, validate
from hf_compress.errors import UsageError
from hf_compress.recipe_values import is_study, overridden, read_recipe
from hf_compress.registry import did_you_mean
from hf_compress.steps import STEPS


class ModelSection(Section):
    """A model: a Hub id, a local folder, a timm checkpoint (`timm/...`), or the name of a registered architecture."""

    model: str = Field(description="Hub id, folder, `timm/...`, or a name that `hf-compress students` lists.")
    revision: str | None = Field(None, description="Branch, tag or commit of the Hub repository.")
    trust_remote_code: bool = Field(False, description="Run the Python code that the repository contains.")
    width: float = Field(1.0, gt=0, description="Width multiplier of a registered architecture.")
    image_size: int | None = Field(None, ge=8, description="Input size in pixels of a registered architecture.")


class TeacherFinetune(TrainingConfig):
    """Train the teacher on the data first."""

    layers: Literal["all", "head"] = Field("all", description="`head` trains the classifier only.")


class TeacherSection(ModelSection):
    finetune: TeacherFinetune | None = Field(None, description="Needed when the teacher's labels are not the data's.")


class StudentSection(ModelSection):
    """The model that is compressed; `model: teacher` is a copy of the teacher."""

    pretrained: bool = Field(True, description="Load the weights of a Hub id or folder; false starts from scratch.")


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


class DataSection(Section):
    path: str = Field(
        description="Hub id, folder of images (one folder a class), folder of parquet files, or `digits`."
    )
    name: str | None = Field(None, description="Configuration of a Hub data set.")
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub data set.")
    splits: SplitsSection = Field(default_factory=SplitsSection)
    image_column: str | None = Field(None, description="Found by its type when not given.")
    label_column: str | None = Field(None, description="Found by its type when not given.")
    augmentation: Literal["none", "light", "standard"] = Field(
        "none", description="`light`: shift and mirror; `standard`: random crop, mirror and colour."
    )
    on_corrupt: Literal["skip", "stop"] = Field("skip", description="What to do with an image that cannot be decoded.")
    workers: int = Field(0, ge=0, description="Processes that decode images; 0 decodes in the main process.")


class MeasureSection(Section):
    batch_size: int = Field(64, ge=1, description="Second batch size of the latency table, beside 1.")
    threads: int | None = Field(None, ge=1, description="CPU threads; all cores when not given.")
    repeats: int = Field(30, ge=3, description="Timed forward passes a model and batch size.")
    runtimes: list[Literal["eager", "compile", "onnxruntime"]] = Field(
        ["eager"], description="Where latency is measured; `eager` always is. `onnxruntime` needs hf-compress[onnx]."
    )


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


class Recipe(Section):
    """What to compress, how, and with which data."""

    task: Literal["classification", "features"] = Field(
        "classification",
        description="`features`: teacher and student are backbones without a classifier; labels are not needed.",
    )
    teacher: TeacherSection | None = None
    assistants: list[StudentSection] = Field(
        [],
        description="Models between teacher and student: each learns from the one before it, by the first step "
        "`distill`, and teaches the next. `chain: [teacher, assistant, ..., student]` says it shorter.",
    )
    student: StudentSection = StudentSection(model="teacher")
    data: DataSection
    steps: list[dict[str, SerializeAsAny[BaseModel]]] = Field(
        min_length=1, description="What is done to the student, in order: one step a list item."
    )
    measure: MeasureSection = Field(default_factory=MeasureSection)
    publish: PublishSection | None = Field(None, description="Publish the finished run folder on the Hub.")
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _chain_shorthand(cls, values: Any) -> Any:
        return _without_chain(values) if isinstance(values, dict) and "chain" in values else values

    @field_validator("teacher", "student", mode="before")
    @classmethod
    def _model_shorthand(cls, value: Any) -> Any:
        return _model_mapping(value)

    @field_validator("assistants", mode="before")
    @classmethod
    def _models_shorthand(cls, value: Any) -> Any:
        return list(map(_model_mapping, value)) if isinstance(value, list) else value

    @field_validator("data", mode="before")
    @classmethod
    def _data_shorthand(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("steps", mode="before")
    @classmethod
    def _parse_steps(cls, steps: Any) -> Any:
        return [_parse_step(i, step) for i, step in enumerate(steps)] if isinstance(steps, list) else steps

    @model_validator(mode="after")
    def _fits_the_task(self):
        for number, name in enumerate(self.step_names):
            if STEPS.get(name).task != self.task:
                fitting = ", ".join(other for other in STEPS if STEPS.get(other).task == self.task)
                raise UsageError(
                    f"'steps.{number}.{name}' is a step of task '{STEPS.get(name).task}', the recipe's task is "
                    f"'{self.task}': use {fitting}, or set 'task: {STEPS.get(name).task}'"
                )
        if self.task == "features" and self.student.model == "teacher":
            raise UsageError(
                "'student.model' is the teacher, which has nothing to learn from itself: name a smaller one"
            )
        if self.task == "features" and self.teacher is not None and self.teacher.finetune is not None:
            raise UsageError("'teacher.finetune' trains a classifier, which 'task: features' leaves out: remove it")
        return self

    @model_validator(mode="after")
    def _has_teacher_where_needed(self):
        if self.teacher is None:
            if self.student.model == "teacher":
                raise UsageError("'student.model' is the teacher, but the recipe has no teacher: add 'teacher.model'")
            for number, step in enumerate(self.build_steps()):
                if step.needs_teacher:
                    raise UsageError(f"'steps.{number}' learns from a teacher: add 'teacher.model' to the recipe")
        return self

    @model_validator(mode="after")
    def _assistants_can_learn(self):
        if not self.assistants:
            return self
        if self.task != "classification":
            raise UsageError(f"'assistants' learn to classify: leave them out, or 'task: {self.task}'")
        if self.teacher is None:
            raise UsageError("'assistants' learn from a teacher: add 'teacher.model' to the recipe")
        if "distill" not in self.step_names:
            raise UsageError("'assistants' learn by the step 'distill': add it to 'steps'")
        for key, section in (
            *((f"assistants.{index}", section) for index, section in enumerate(self.assistants)),
            ("student", self.student),
        ):
            if section.model == "teacher":
                raise UsageError(f"'{key}.model' is a copy of the teacher, which has nothing to learn: name a model")
        return self

    def build_steps(self) -> list:
        """Return the steps, ready to apply."""
        return [STEPS.get(name)(config) for step in self.steps for name, config in step.items()]

    @property
    def step_names(self) -> list[str]:
        return [name for step in self.steps for name in step]

    @classmethod
    def load(cls, source: str | Path, overrides: dict[str, Any] | None = None) -> Recipe:
        """Read a recipe.

        Args:
            source: path of a YAML file, or the name of a shipped recipe (`quickstart`).
            overrides: values by key path (`{"data.path": "digits", "steps.0.distill.epochs": 3}`).

        Raises:
            UsageError: the file is missing or not YAML, or a key or value is wrong.
        """
        values = read_recipe(source)
        if is_study(values):
            raise UsageError(f"'{source}' is a study of several runs: `hf-compress run` and `Study.load` take it")
        return cls.from_dict(values, overrides)

    @classmethod
    def from_dict(cls, values: Any, overrides: dict[str, Any] | None = None) -> Recipe:
        """Build a recipe from plain values; see `load` for `overrides` and errors."""
        if not isinstance(values, dict):
            raise UsageError("a recipe is a mapping with the keys teacher, student, data, steps, measure, seed")
        return validate(cls, overridden(values, overrides))

    def pinned(self, **commits: str | None) -> Recipe:
        """Return the recipe with the commits that a run used: `pinned(teacher=..., data=...)`; None is skipped."""
        return self.model_copy(
            update={
                section: getattr(self, section).model_copy(update={"revision": commit})
                for section, commit in commits.items()
                if commit is not None
            }
        )

    def to_yaml(self) -> str:
        """Return the resolved recipe, all defaults filled in."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)


def recipe_schema() -> dict[str, Any]:
    """Return the JSON schema of recipes, with the options of every registered step."""
    configs = {name: STEPS.get(name).Config for name in STEPS}
    _, schema = models_json_schema([(model, "validation") for model in (Recipe, *configs.values())])
    recipe = schema["$defs"].pop("Recipe")
    recipe["properties"]["steps"]["items"] = {
        "oneOf": [
            {
                "type": "object",
                "properties": {name: {"$ref": f"#/$defs/{config.__name__}"}},
                "required": [name],
                "additionalProperties": False,
            }
            for name, config in configs.items()
        ]
    }
    for section in ("teacher", "student"):
        recipe["properties"][section] = {"anyOf": [{"type": "string"}, recipe["properties"][section]]}
    assistants = recipe["properties"]["assistants"]
    assistants["items"] = {"anyOf": [{"type": "string"}, assistants["items"]]}
    recipe["properties"]["chain"] = {
        "type": "array",
        "minItems": 2,
        "prefixItems": [{"anyOf": [{"type": "string"}, {"$ref": "#/$defs/TeacherSection"}]}],
        "items": assistants["items"],
        "description": "Teacher, assistants and student in one list.",
    }
    recipe["properties"]["data"] = {"anyOf": [{"type": "string"}, recipe["properties"]["data"]]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **recipe, "$defs": schema["$defs"]}


def model_overrides(section: str, model: str) -> dict[str, str]:
    """Return the overrides that name a model (ID or ID@REVISION) in the section `teacher` or `student`."""
    name, _, revision = model.partition("@")
    return {f"{section}.model": name} | ({f"{section}.revision": revision} if revision else {})


def _model_mapping(value: Any) -> Any:
    return {"model": value} if isinstance(value, str) else value


def _without_chain(values: dict[str, Any]) -> dict[str, Any]:
    """Write `chain: [a, b, c]` as teacher a, assistants [b] and student c; `teacher` may add options to the first."""
    chain, teacher = values["chain"], values.get("teacher") or {}
    if not isinstance(chain, list) or len(chain) < 2:
        raise UsageError("'chain' must list two models or more, from the teacher to the student")
    named = "teacher" if not isinstance(teacher, dict) or "model" in teacher else None
    if named := named or next((key for key in ("assistants", "student") if key in values), None):
        raise UsageError(f"'chain' names the models from the teacher to the student: leave out '{named}' beside it")
    first, *others = map(_model_mapping, chain)
    first = {**first, **teacher} if isinstance(first, dict) else first
    *assistants, student = (validate(StudentSection, entry, f"chain.{i}") for i, entry in enumerate(others, start=1))
    rest = {key: value for key, value in values.items() if key != "chain"}
    return rest | {"teacher": validate(TeacherSection, first, "chain.0"), "assistants": assistants, "student": student}


def _parse_step(number: int, step: Any) -> dict[str, Section]:
    if isinstance(step, str):
        step = {step: {}}
    if not isinstance(step, dict) or len(step) != 1:
        raise UsageError(f"'steps.{number}' must be one step name with its options, for example '- distill: {{}}'")
    (name, options), *_ = step.items()
    if name not in STEPS:
        raise UsageError(f"'steps.{number}' is the unknown step '{name}'{did_you_mean(str(name), STEPS)}")
    config = STEPS.get(name).Config
    if isinstance(options, config):
        return {name: options}
    return {name: validate(config, options or {}, f"steps.{number}.{name}")}
