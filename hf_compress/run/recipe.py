"""The recipe: everything a run needs, read from YAML."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, SerializeAsAny, field_validator, model_validator
from pydantic.json_schema import models_json_schema

from hf_compress.ground.errors import UsageError, shown
from hf_compress.ground.files import split_revision
from hf_compress.ground.registry import did_you_mean
from hf_compress.models.students import STUDENTS
from hf_compress.run.bounds import refuse_endless
from hf_compress.sections.base import Section, TrainingConfig, named, shorthand, validate
from hf_compress.sections.data import DataSection
from hf_compress.sections.deploy import DeploySection
from hf_compress.sections.distillation import LOSSES
from hf_compress.sections.measure import MeasureSection
from hf_compress.sections.models import AUTO, TEACHER, EnsembleSection, StudentSection, TeacherSection
from hf_compress.sections.publish import PublishSection
from hf_compress.sections.values import overridden, read_single
from hf_compress.steps import STEPS
from hf_compress.tasks import TASKS
from hf_compress.tasks.base import TaskName
from hf_compress.tasks.declared import declared_task
from hf_compress.training.tracking import Tracker

logger = logging.getLogger(__name__)
Student = Annotated[StudentSection, shorthand(StudentSection, "model")]


class Recipe(Section):
    """What to compress, how, and with which data."""

    task: TaskName = Field(
        "classification",
        description="`classification`, `segmentation`, `detection`, `depth`, a registered name, or `features`: "
        "backbones without a classifier, for which labels are not needed.",
    )
    teacher: TeacherSection | EnsembleSection | None = None
    assistants: list[Student] = Field(
        [],
        description="Models between teacher and student: each learns from the one before it, by the first step "
        "`distill`, and teaches the next. `chain: [teacher, assistant, ..., student]` says it shorter.",
    )
    student: Student = StudentSection(model=TEACHER)
    data: Annotated[DataSection, shorthand(DataSection, "path")]
    steps: list[dict[str, SerializeAsAny[BaseModel]]] = Field(
        description="What is done to the student, in order: one step a list item; none where it is only deployed."
    )
    control: bool = Field(
        False,
        description="Take the same student through the same steps once more, learning from the labels alone; the "
        "report compares them, and no weights of it are kept.",
    )
    deploy: list[Annotated[DeploySection, shorthand(DeploySection, "to")]] = Field(
        [], description="Files for other runtimes, written of the final model into the folder `deploy` of the run."
    )
    measure: MeasureSection = Field(default_factory=MeasureSection)
    publish: PublishSection | None = Field(
        None, description="Publish the finished run folder on the Hub; needs --publish as well."
    )
    track: Tracker | None = Field(
        None,
        description="Send what trainings log to this tracker as well, by the Trainer's own integration; none when not "
        "given. Its package is installed apart.",
    )
    seed: int = Field(0, ge=0, lt=2**32)

    @model_validator(mode="before")
    @classmethod
    def _chain_shorthand(cls, values: Any) -> Any:
        return _without_chain(values) if isinstance(values, dict) and "chain" in values else values

    @model_validator(mode="before")
    @classmethod
    def _quantize_is_deployment(cls, values: Any) -> Any:
        return _without_quantize(values) if isinstance(values, dict) else values

    @field_validator("teacher", mode="before", json_schema_input_type=str | TeacherSection | EnsembleSection | None)
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return _teacher(value, "teacher")

    @field_validator("steps", mode="before")
    @classmethod
    def _parse_steps(cls, steps: Any) -> Any:
        return [_parse_step(i, step) for i, step in enumerate(steps)] if isinstance(steps, list) else steps

    @model_validator(mode="after")
    def _something_to_do(self):
        if not self.steps and not self.deploy:
            raise UsageError("'steps' cannot be []: name a step, or what to 'deploy'")
        stages = [section.stage for section in self.deploy]
        if twice := next((stage for stage in stages if stages.count(stage) > 1), None):
            raise UsageError(f"'deploy' writes {twice} twice: leave one of them out")
        return self

    @model_validator(mode="after")
    def _fits_the_task(self):
        task = TASKS.get(self.task)
        for number, name in enumerate(self.step_names):
            if not task.takes(STEPS.get(name)):
                fitting = ", ".join(other for other in STEPS if task.takes(STEPS.get(other)))
                other = next(other for other in TASKS if TASKS.get(other).takes(STEPS.get(name)))
                raise UsageError(
                    f"'steps.{number}.{name}' is a step of task '{other}', the recipe's task is '{self.task}': use "
                    f"{fitting}, or set 'task: {other}'"
                )
        task.check_recipe(self)
        return self

    @model_validator(mode="after")
    def _can_select_a_student(self):
        if self.student.model == AUTO:
            self.probed_step()
        return self

    @model_validator(mode="after")
    def _has_teacher_where_needed(self):
        if isinstance(self.teacher, EnsembleSection) and self.student.model == TEACHER:
            raise UsageError("'student.model' is the teacher, which is an ensemble: name a single model")
        if self.teacher is None:
            if self.student.model == TEACHER:
                raise UsageError("'student.model' is the teacher, but the recipe has no teacher: add 'teacher.model'")
            for number, step in enumerate(self.build_steps()):
                if step.needs_teacher:
                    raise UsageError(f"'steps.{number}' learns from a teacher: add 'teacher.model' to the recipe")
        return self

    @model_validator(mode="after")
    def _losses_know_mixed_labels(self):
        for key, training in self.trainings.items() if self.data.mixes else ():
            for loss in (term.loss for term in getattr(training, "terms", [])):
                if LOSSES.get(loss).needs_labels and not LOSSES.get(loss).mixed_labels:
                    raise UsageError(
                        f"'{key}' has loss '{loss}', which needs one label an image, and mixed pictures have two: use "
                        "kl_ce, or leave out 'data.mixup' and 'data.cutmix'"
                    )
        return self

    @model_validator(mode="after")
    def _widths_have_an_architecture(self):
        for key, section in (self.teachers | self.students).items():
            if section.width != 1 and section.model not in (TEACHER, *STUDENTS):
                raise UsageError(
                    f"'{key}.width' is of the registered architectures ({', '.join(STUDENTS)}), which {section.model} "
                    "is not: leave it out"
                )
        return self

    @model_validator(mode="after")
    def _checkpoints_have_an_architecture(self):
        for key, section in self.students.items():
            if isinstance(section.pretrained, str) and section.model not in STUDENTS:
                raise UsageError(
                    f"'{key}.pretrained' names weights of a registered architecture, which {section.model} is not: "
                    f"leave it out, or name one of {', '.join(STUDENTS)} as '{key}.model'"
                )
        return self

    @model_validator(mode="after")
    def _has_a_control(self):
        if not self.control:
            return self
        steps = self.build_steps()
        if not any(step.distils for step in steps):
            raise UsageError("'control' is for steps that learn from a teacher, and none of these does: leave it out")
        for number, (name, step) in enumerate(zip(self.step_names, steps, strict=True)):
            if step.on_labels() is None:
                raise UsageError(
                    f"'control' learns from the labels alone, and 'steps.{number}.{name}' cannot: leave it out"
                )
        return self

    @model_validator(mode="after")
    def _ends(self):
        refuse_endless(self.teacher, self.assistants, self.steps, self.measure)
        return self

    @model_validator(mode="after")
    def _assistants_can_learn(self):
        if not self.assistants:
            return self
        if self.teacher is None:
            raise UsageError("'assistants' learn from a teacher: add 'teacher.model' to the recipe")
        if "distill" not in self.step_names:
            raise UsageError("'assistants' learn by the step 'distill': add it to 'steps'")
        for key, section in self.students.items():
            if section.model == TEACHER:
                raise UsageError(
                    f"'{key}.model' is a copy of the teacher, which has nothing to learn from assistants: name a model"
                )
            if section.model == AUTO and section is not self.student:
                raise UsageError(f"'{key}.model' cannot be '{AUTO}', which selects the student: name a model")
        return self

    def build_steps(self) -> list:
        """Return the steps, ready to apply."""
        return [STEPS.get(name)(config) for step in self.steps for name, config in step.items()]

    def probed_step(self) -> tuple[str, TrainingConfig]:
        """Return name and section of the first step that trains: the probes of `student: auto` repeat it in short.

        Raises:
            UsageError: there is none.
        """
        for step in self.steps:
            for name, config in step.items():
                if isinstance(config, TrainingConfig):
                    return name, config
        raise UsageError(
            "'student.model: auto' compares short trainings, but no step trains: add 'distill' or 'finetune'"
        )

    @property
    def teachers(self) -> dict[str, TeacherSection]:
        """The teacher, or the members of the ensemble, by key path."""
        if isinstance(self.teacher, EnsembleSection):
            return {f"teacher.ensemble.{index}": member for index, member in enumerate(self.teacher.ensemble)}
        return {"teacher": self.teacher} if self.teacher else {}

    @property
    def students(self) -> dict[str, StudentSection]:
        """Assistants and student by key path."""
        assistants = {f"assistants.{index}": section for index, section in enumerate(self.assistants)}
        return assistants | {"student": self.student}

    @property
    def trainings(self) -> dict[str, TrainingConfig]:
        """How each step trains, those that prune in their `recovery`, by the key path of the step."""
        found = {
            f"steps.{number}.{name}": getattr(config, "recovery", config)
            for number, step in enumerate(self.steps)
            for name, config in step.items()
        }
        return {key: config for key, config in found.items() if isinstance(config, TrainingConfig)}

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
        return cls.from_dict(read_single(source), overrides)

    @classmethod
    def from_dict(cls, values: Any, overrides: dict[str, Any] | None = None) -> Recipe:
        """Build a recipe from plain values; see `load` for `overrides` and errors."""
        if not isinstance(values, dict):
            raise UsageError("a recipe is a mapping with the keys teacher, student, data, steps, measure, seed")
        return validate(cls, overridden(values, overrides))

    def pinned(self, **commits: str | list[str | None] | None) -> Recipe:
        """Return the recipe with the commits that a run used; None is skipped.

        Args:
            commits: by section: one for `student` and `data`, one a member for `teacher`, one a model for
                `assistants`, and one a data set for `unlabelled`.
        """
        recipe = self.model_copy(deep=True)
        sections: dict[str, Any] = {
            "teacher": recipe.teacher.members if recipe.teacher else [],
            "assistants": recipe.assistants,
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
    sections: list[type[Section]] = [Recipe, *configs.values()]
    _, schema = models_json_schema([(section, "validation") for section in sections])
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
    recipe["properties"]["chain"] = {
        "type": "array",
        "minItems": 2,
        "prefixItems": [recipe["properties"]["teacher"]],
        "items": recipe["properties"]["assistants"]["items"],
        "description": "Teacher, assistants and student in one list.",
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **recipe, "$defs": schema["$defs"]}


def model_overrides(section: str, model: str) -> dict[str, str]:
    """Return the overrides that name a model (ID or ID@REVISION) in the section `teacher` or `student`."""
    name, revision = split_revision(model)
    return {f"{section}.model": name} | ({f"{section}.revision": revision} if revision else {})


def with_declared_task(overrides: dict[str, Any]) -> dict[str, Any]:
    """Return overrides that say which task it is, if they do not: the one that the teacher they name was made for."""
    if "task" in overrides:
        return overrides
    return overrides | {"task": declared_task(overrides["teacher.model"], overrides.get("teacher.revision")).name}


def _without_chain(values: dict[str, Any]) -> dict[str, Any]:
    """Write `chain: [a, b, c]` as teacher a, assistants [b] and student c; `teacher` may add options to the first."""
    chain, teacher = values["chain"], values.get("teacher") or {}
    if not isinstance(chain, list) or len(chain) < 2:
        raise UsageError("'chain' must list two models or more, from the teacher to the student")
    twice = "teacher" if not isinstance(teacher, dict) or "model" in teacher else None
    if twice := twice or next((key for key in ("assistants", "student") if key in values), None):
        raise UsageError(f"'chain' names the models from the teacher to the student: leave out '{twice}' beside it")
    first, *others = (named(model, "model") for model in chain)
    first = {**first, **teacher} if isinstance(first, dict) else first
    *assistants, student = (validate(StudentSection, entry, f"chain.{i}") for i, entry in enumerate(others, start=1))
    rest = {key: value for key, value in values.items() if key != "chain"}
    return rest | {"teacher": _teacher(first, "chain.0"), "assistants": assistants, "student": student}


def _without_quantize(values: dict[str, Any]) -> dict[str, Any]:
    """Write each step `quantize` with the options that it had before `deploy` as a deployment."""
    steps, deploy = values.get("steps"), values.get("deploy", [])
    if not isinstance(steps, list) or not isinstance(deploy, list):
        return values
    for number, step in enumerate(steps):
        options = step.get("quantize") if isinstance(step, dict) and len(step) == 1 else None
        if not isinstance(options, dict) or not options.keys() & {"images", "repeats"}:
            continue
        options = {"to": "onnx", "int8": True, "images": 256} | {k: options[k] for k in options if k != "repeats"}
        section = validate(DeploySection, options, f"steps.{number}.quantize")
        logger.warning(
            "'steps.%s.quantize' trains for int8 now, and has no images or repeats; the final model is quantised "
            "instead, as by 'deploy: [{to: onnx, int8: true, images: %s}]'",
            number,
            section.images,
        )
        rest = [*steps[:number], *steps[number + 1 :]]
        return _without_quantize(values | {"steps": rest, "deploy": [*deploy, section]})
    return values


def _teacher(value: Any, key: str) -> Any:
    """Return one teacher or an ensemble; whatever is neither stays as it is, to be refused with its place."""
    value = named(value, "model")
    if not isinstance(value, dict):
        return value
    return validate(EnsembleSection if "ensemble" in value else TeacherSection, value, key)


def _parse_step(number: int, step: Any) -> dict[str, Section]:
    if isinstance(step, str):
        step = {step: {}}
    if not isinstance(step, dict) or len(step) != 1:
        raise UsageError(f"'steps.{number}' must be one step name with its options, for example '- distill: {{}}'")
    (name, options), *_ = step.items()
    if name not in STEPS:
        raise UsageError(f"'steps.{number}' is the unknown step {shown(name)}{did_you_mean(str(name), STEPS)}")
    config = STEPS.get(name).Config
    if isinstance(options, config):
        return {name: options}
    return {name: validate(config, options or {}, f"steps.{number}.{name}")}
