"""The recipe: everything a run needs, read from YAML."""

from __future__ import annotations

import re
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, SerializeAsAny, field_validator, model_validator
from pydantic.json_schema import models_json_schema

from hf_compress.config import Section, TrainingConfig, validate
from hf_compress.errors import UsageError
from hf_compress.registry import did_you_mean
from hf_compress.sections import ModelSection, StudentSection
from hf_compress.selection.config import AUTO, probed_step
from hf_compress.shipped import shipped_folders
from hf_compress.steps import STEPS


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
        return [_named(member, "model") for member in members] if isinstance(members, list) else members

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
    on_corrupt: Literal["skip", "stop"] = Field("skip", description="What to do with an image that cannot be decoded.")
    workers: int = Field(0, ge=0, description="Processes that decode images; 0 decodes in the main process.")

    @field_validator("unlabelled", mode="before")
    @classmethod
    def _source_shorthand(cls, sources: Any) -> Any:
        return [_named(source, "path") for source in sources] if isinstance(sources, list) else sources

    @model_validator(mode="after")
    def _no_test_images(self):
        if any(source.path == self.path and source.split is None for source in self.unlabelled):
            raise ValueError("unlabelled holds the data set itself, with its test images: name the split to take")
        return self


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
    teacher: TeacherSection | EnsembleSection | None = None
    student: StudentSection = StudentSection(model="teacher")
    data: DataSection
    steps: list[dict[str, SerializeAsAny[BaseModel]]] = Field(
        min_length=1, description="What is done to the student, in order: one step a list item."
    )
    measure: MeasureSection = Field(default_factory=MeasureSection)
    publish: PublishSection | None = Field(None, description="Publish the finished run folder on the Hub.")
    seed: int = 0

    @field_validator("student", mode="before")
    @classmethod
    def _model_shorthand(cls, value: Any) -> Any:
        return _named(value, "model")

    @field_validator("teacher", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        value = _named(value, "model")
        if not isinstance(value, dict):
            return value
        return validate(EnsembleSection if "ensemble" in value else TeacherSection, value, "teacher")

    @field_validator("data", mode="before")
    @classmethod
    def _data_shorthand(cls, value: Any) -> Any:
        return _named(value, "path")

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
        if self.task == "features" and isinstance(self.teacher, EnsembleSection):
            raise UsageError(
                "'teacher.ensemble' averages classes, which 'task: features' leaves out: name one teacher"
            )
        if self.task == "features" and self.teacher is not None and self.teacher.finetune is not None:
            raise UsageError("'teacher.finetune' trains a classifier, which 'task: features' leaves out: remove it")
        return self

    @model_validator(mode="after")
    def _can_select_a_student(self):
        if self.student.model == AUTO:
            probed_step(self)
        return self

    @model_validator(mode="after")
    def _has_teacher_where_needed(self):
        if isinstance(self.teacher, EnsembleSection) and self.student.model == "teacher":
            raise UsageError("'student.model' is the teacher, which is an ensemble: name a single model")
        if self.teacher is None:
            if self.student.model == "teacher":
                raise UsageError("'student.model' is the teacher, but the recipe has no teacher: add 'teacher.model'")
            for number, step in enumerate(self.build_steps()):
                if step.needs_teacher:
                    raise UsageError(f"'steps.{number}' learns from a teacher: add 'teacher.model' to the recipe")
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
        path = _find(source)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"recipe {path} is not valid YAML: {' '.join(str(error).split())}") from None
        return cls.from_dict(values, overrides)

    @classmethod
    def from_dict(cls, values: Any, overrides: dict[str, Any] | None = None) -> Recipe:
        """Build a recipe from plain values; see `load` for `overrides` and errors."""
        if not isinstance(values, dict):
            raise UsageError("a recipe is a mapping with the keys teacher, student, data, steps, measure, seed")
        values = deepcopy(values)
        for key, value in (overrides or {}).items():
            _override(values, key, value)
        return validate(cls, values)

    def pinned(self, **commits: str | list[str | None] | None) -> Recipe:
        """Return the recipe with the commits that a run used; None is skipped.

        Args:
            commits: by section: one for `student` and `data`, one a member for `teacher`, and one a data set for
                `unlabelled`.
        """
        recipe = self.model_copy(deep=True)
        sections = {
            "teacher": recipe.teacher.members if recipe.teacher else [],
            "student": [recipe.student],
            "data": [recipe.data],
            "unlabelled": recipe.data.unlabelled,
        }
        for name, found in commits.items():
            for section, commit in zip(sections[name], found if isinstance(found, list) else [found], strict=True):
                section.revision = commit or section.revision
        return recipe

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
    shorthands = [(recipe["properties"], section) for section in ("teacher", "student", "data")]
    shorthands += [
        (schema["$defs"]["EnsembleSection"]["properties"]["ensemble"], "items"),
        (schema["$defs"]["DataSection"]["properties"]["unlabelled"], "items"),
    ]
    for place, key in shorthands:
        place[key] = {"anyOf": [{"type": "string"}, place[key]]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **recipe, "$defs": schema["$defs"]}


def model_overrides(section: str, model: str) -> dict[str, str]:
    """Return the overrides that name a model (ID or ID@REVISION) in the section `teacher` or `student`."""
    name, _, revision = model.partition("@")
    return {f"{section}.model": name} | ({f"{section}.revision": revision} if revision else {})


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that run by name."""
    return {path.stem: path for folder in shipped_folders("recipes") for path in sorted(folder.glob("*.yaml"))}


def _find(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(source) in shipped:
        return shipped[str(source)]
    raise UsageError(f"no recipe file or shipped recipe '{source}'{did_you_mean(str(source), shipped)}")


def _named(value: Any, key: str) -> Any:
    """A string stands for a section in which it is the value of `key`."""
    return {key: value} if isinstance(value, str) else value


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


def _override(values: dict, key: str, value: Any) -> None:
    """Set `value` at the dotted path `key`; `steps.prune.amount` addresses the only prune step."""
    node: Any = values
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            node = node[_list_index(node, part, key)]
            if isinstance(node, dict) and part in node:
                node = node[part]
            continue
        if isinstance(node.get(part), str):
            node[part] = {"path" if part == "data" else "model": node[part]}
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict | list):
            raise UsageError(f"cannot set '{key}': '{'.'.join(parents[: depth + 1])}' is a single value")
    if isinstance(node, list):
        node[_list_index(node, last, key)] = value if last.isdigit() else {last: value}
    else:
        node[last] = value


def _list_index(items: list, part: str, key: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    matches = [i for i, item in enumerate(items) if item == part or (isinstance(item, dict) and part in item)]
    if len(matches) != 1:
        found = "no step" if not matches else "more than one step"
        raise UsageError(f"cannot set '{key}': {found} '{part}'; use a number from 0 to {len(items) - 1}")
    if items[matches[0]] == part:
        items[matches[0]] = {part: {}}
    return matches[0]
