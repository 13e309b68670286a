"""The study: what several runs share, and what is each one's own, read from YAML."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ConfigDict, Field, field_validator, model_validator

from hf_compress.ground.errors import UsageError, shown
from hf_compress.ground.registry import did_you_mean
from hf_compress.models.students import STUDENTS
from hf_compress.run.recipe import Recipe, recipe_schema
from hf_compress.sections.base import Section, TrainingConfig, validate
from hf_compress.sections.values import is_study, overridden, read_recipe
from hf_compress.steps import STEPS

SECTIONS = [*(name for name in Recipe.model_fields if name not in ("seed", "publish")), "chain"]
MOST_JOBS = 1000
MODELS = ("teacher", "assistants", "student", "chain")


class StudyRun(Section):
    """A run of a study: a label, and the sections of a recipe that are its own."""

    model_config = ConfigDict(extra="allow")

    label: str | None = Field(None, description="Name in tables and figure; the run's own when not given.")


class Study(Section):
    """Several runs. Sections of a recipe beside `runs` are shared; each run may lay its own over them.

    Wherever a recipe names a model, a run may name another run: `teacher: {run: resnet50}` is the model that the run
    `resnet50` of the same seed ended with.
    """

    model_config = ConfigDict(extra="allow")

    image_size: int | None = Field(
        None, ge=8, le=8192, description="Input size in pixels of every registered architecture."
    )
    training: TrainingConfig = Field(
        TrainingConfig(), description="What steps that train, and `teacher.finetune`, do not say themselves."
    )
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        [0], min_length=1, description="Every run is made once with each; a seed divides the data, too."
    )
    runs: dict[str, StudyRun] = Field(min_length=1, max_length=256, description="The rows of the table, by name.")

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed is there twice")
        return seeds

    @model_validator(mode="after")
    def _ends(self):
        if (jobs := len(self.runs) * len(self.seeds)) > MOST_JOBS:
            raise UsageError(
                f"the study has {jobs:,} runs ({len(self.runs)} with {len(self.seeds):,} seeds each): the most is "
                f"{MOST_JOBS:,}"
            )
        return self

    @model_validator(mode="after")
    def _valid(self):
        _refuse_unknown_keys(self, "")
        for name, run in self.runs.items():
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
                raise UsageError(f"'runs.{name}' names a folder: use lower-case letters, digits, '_' and '-'")
            _refuse_unknown_keys(run, f"runs.{name}.")
            for other in self.needs(name):
                if other not in self.runs:
                    raise UsageError(f"'runs.{name}' needs the unknown run '{other}'{did_you_mean(other, self.runs)}")
        for name in self.order():
            self.recipe(name, self.seeds[0], Path())
        return self

    def order(self) -> list[str]:
        """Return the names of the runs, each behind those that it needs, otherwise as written.

        Raises:
            UsageError: runs need each other in a circle.
        """
        placed: dict[str, None] = {}

        def place(name: str, path: tuple[str, ...]) -> None:
            if name in placed:
                return
            if name in path:
                circle = " -> ".join([*path[path.index(name) :], name])
                raise UsageError(f"the runs {circle} need each other in a circle: let one start from a model")
            for other in self.needs(name):
                place(other, (*path, name))
            placed.setdefault(name)

        for name in self.runs:
            place(name, ())
        return list(placed)

    def jobs(self) -> list[tuple[str, int]]:
        """Return all (run, seed), seed after seed, so that an unfinished study has every row early."""
        return [(name, seed) for seed in self.seeds for name in self.order()]

    def needs(self, name: str) -> list[str]:
        """Return the runs whose models a run starts from or learns from."""
        return list(dict.fromkeys(_references([self._sections(name).get(key) for key in MODELS])))

    def label(self, name: str) -> str:
        return self.runs[name].label or name

    def recipe(self, name: str, seed: int, output: Path) -> Recipe:
        """Return the recipe of one run.

        Args:
            output: folder of the study, in which the runs lie that this one needs.

        Raises:
            UsageError: it is wrong; the sentence names the run.
        """
        sections = self._sections(name)
        for key in sections.keys() & MODELS:
            sections[key] = self._with_models(sections[key], output, seed)
        if isinstance(sections.get("steps"), list):
            sections["steps"] = list(map(self._with_training, sections["steps"]))
        try:
            return Recipe.from_dict(sections | {"seed": seed})
        except UsageError as error:
            raise UsageError(f"run '{name}': {error}") from None

    def _sections(self, name: str) -> dict[str, Any]:
        """Return what a run and the study say, the run's word first; of `data`, key by key."""
        shared, own = deepcopy(self.model_extra or {}), deepcopy(self.runs[name].model_extra or {})
        data: list[Any] = [
            {"path": part} if isinstance(part, str) else part for part in (shared.get("data"), own.get("data"))
        ]
        merged = {"data": data[0] | data[1]} if all(isinstance(part, dict) for part in data) else {}
        return shared | own | merged

    def _with_models(self, node: Any, output: Path, seed: int) -> Any:
        """Complete a section that names a model, or a list of such; what is none stays, for the recipe to refuse."""
        if isinstance(node, list):
            return [self._with_models(item, output, seed) for item in node]
        if isinstance(node, str):
            node = {"model": node}
        if not isinstance(node, dict):
            return node
        model: dict[str, Any] = {
            key: [self._with_models(item, output, seed) if isinstance(item, dict) else item for item in value]
            if isinstance(value, list)
            else value
            for key, value in node.items()
        }
        if "run" in model:
            folder = run_folder(output, str(model.pop("run")), seed)
            model["model"] = str(folder) if folder.is_absolute() else f"./{folder.as_posix()}"
        if self.image_size is not None and str(model.get("model")) in STUDENTS:
            model = {"image_size": self.image_size} | model
        if isinstance(model.get("finetune"), dict):
            model["finetune"] = self.training.model_dump(exclude_unset=True) | model["finetune"]
        return model

    def _with_training(self, step: Any) -> Any:
        """Give a step that trains the options that it lacks."""
        named = {step: {}} if isinstance(step, str) else step
        if not isinstance(named, dict):
            return step
        training = self.training.model_dump(exclude_unset=True)
        return {
            name: training | (options or {})
            if isinstance(options or {}, dict) and name in STEPS and issubclass(STEPS.get(name).Config, TrainingConfig)
            else options
            for name, options in named.items()
        }

    @classmethod
    def load(cls, source: str | Path, overrides: dict[str, Any] | None = None) -> Study:
        """Read a study.

        Args:
            source: path of a YAML file, or the name of a shipped study (`leaf-disease-table`).
            overrides: values by key path (`{"training.epochs": 10, "runs.resnet18.label": "small"}`).

        Raises:
            UsageError: the file is missing or not YAML, or a key or value is wrong.
        """
        return cls.from_dict(read_recipe(source), overrides)

    @classmethod
    def from_dict(cls, values: Any, overrides: dict[str, Any] | None = None) -> Study:
        """Build a study from plain values; see `load` for `overrides` and errors."""
        if not is_study(values) or not isinstance(values["runs"], dict):
            raise UsageError(
                "a study is a mapping in which 'runs' names the runs: 'runs: {first: {student: ...}, ...}'"
            )
        for key in overrides or {}:
            section, _, rest = key.partition(".")
            if section == "runs" and rest.partition(".")[0] not in values["runs"]:
                raise UsageError(f"cannot set '{key}': the study has the runs {', '.join(map(str, values['runs']))}")
        return validate(cls, overridden(values, overrides))

    def to_yaml(self) -> str:
        """Return the study with its overrides; the recipe of each run folder has all defaults filled in."""
        values = self.model_dump(mode="json", exclude_unset=True)
        values["runs"] = values.pop("runs")
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def study_schema() -> dict[str, Any]:
    """Return the JSON schema of studies."""
    recipe, study = recipe_schema(), Study.model_json_schema()
    sections = {key: value for key, value in recipe["properties"].items() if key in SECTIONS}
    reference = {"type": "object", "properties": {"run": {"type": "string"}}, "required": ["run"]}
    for key in MODELS:
        options = sections[key].get("items", sections[key])["anyOf"]
        if reference not in options:
            options.append(reference)
    run = study["$defs"]["StudyRun"]
    for section in (run, study):
        section |= {"properties": section["properties"] | sections, "additionalProperties": False}
    return {"$schema": recipe["$schema"], **study, "$defs": recipe["$defs"] | study["$defs"]}


def run_folder(output: Path, name: str, seed: int) -> Path:
    """Return where a run of a study lies."""
    return output / f"{name}-seed-{seed}"


def _refuse_unknown_keys(section: Section, path: str) -> None:
    for key, value in (section.model_extra or {}).items():
        if key not in SECTIONS:
            near = did_you_mean(key, [*SECTIONS, *type(section).model_fields])
            raise UsageError(f"unknown key '{path}{key}' (value {shown(value)}){near}")


def _references(node: Any) -> Iterator[str]:
    """Find the name in every `{run: name}`."""
    if isinstance(node, list):
        for item in node:
            yield from _references(item)
    elif isinstance(node, dict):
        if "run" in node:
            yield str(node["run"])
        yield from _references(list(node.values()))
