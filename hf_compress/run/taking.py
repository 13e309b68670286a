"""The steps of a run, from the student as it is built to the model that comes out; no test image is looked at."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from hf_compress.ground.units import Units
from hf_compress.models.load import LoadedModel
from hf_compress.models.origin import Origin, origin, publishable_license
from hf_compress.models.students import STUDENTS
from hf_compress.run.chain import build_assistants, teach_assistants
from hf_compress.run.control import train_control
from hf_compress.run.folder import RunFolder
from hf_compress.run.preparing import Prepared
from hf_compress.run.recipe import Recipe
from hf_compress.run.remarks import before_distilling, logged
from hf_compress.run.selection.select import select_student
from hf_compress.run.stages import Stages
from hf_compress.run.step_unit import apply_once
from hf_compress.run.student import prepared_student
from hf_compress.run.teacher import unfold
from hf_compress.sections.models import TEACHER
from hf_compress.tasks import TASKS
from hf_compress.training.context import Context


@dataclass(frozen=True)
class Taken:
    """A run whose steps are done.

    Attributes:
        recipe: with the student that was selected, and all commits.
        student: as the last step left it.
        stages: all models of the run, not yet measured.
        files: folder of the student's files; None where there was no step.
        origins: of all models, for the report.
        selection: for the report.
        remarks: sentences about the run.
    """

    recipe: Recipe
    student: LoadedModel
    stages: Stages
    files: Path | None
    origins: dict[str, Origin | list[Origin] | None]
    selection: dict[str, Any]
    remarks: list[str]


def take_steps(prepared: Prepared, folder: RunFolder, units: Units, log) -> Taken:
    """Go through the steps of a recipe; what is done lies in `units`."""
    recipe, data, teacher = prepared.recipe, prepared.data, prepared.teacher
    task = TASKS.get(recipe.task)
    recipe, selection = select_student(recipe, data, teacher, units, log)
    set_seed(prepared.seeds.student)
    assistants = build_assistants(recipe, data, teacher, log)
    student, made = prepared_student(recipe, data, [teacher, *assistants][-1], units, log)
    recipe = folder.pin(
        recipe,
        assistants=[assistant.commit for assistant in assistants],
        student="" if recipe.student.model == TEACHER else student.commit or "",  # not that of another candidate
    )
    if student.name not in STUDENTS and recipe.student.pretrained:
        unfold(student, data, log)
    origins = _origins(recipe, prepared.teachers, assistants, student)

    stages = Stages(recipe.measure, prepared.examine, units)
    if teacher is not None:
        stages.add_teacher(teacher, prepared.training_details)
    last_teacher = teach_assistants(recipe, assistants, teacher, data, stages, folder, log)
    if not recipe.student.is_teacher:
        stages.add("student", student, made)
    remarks = logged(before_distilling(recipe, last_teacher, data, stages, units, prepared.predict), log)
    processors = [student.processor, *([last_teacher.processor] if last_teacher else [])]
    shown = data.augmented(recipe.data.augmentation, *processors)
    facts = {"log": log, "task": task, "measure": recipe.measure, "tracking": folder.tracking()}
    context = Context(shown, student.processor, last_teacher, recipe.seed, folder.partial, **facts)
    initial = replace(student, model=copy.deepcopy(student.model)) if recipe.control else None
    saved, first = None, context
    for number, (name, step) in enumerate(zip(recipe.step_names, recipe.build_steps(), strict=True), start=1):
        log(f"step {number} of {len(recipe.steps)}: {name}")
        applied = apply_once(step, f"{number} {name}", student, context, units)
        student, context, saved = applied.student, applied.context, applied.folder
        stages.add(f"{number} {name}", student, applied.details)
    if not recipe.steps:
        stages.add("unchanged", student)
    if recipe.control:
        train_control(recipe, initial, first, stages, units)
    return Taken(recipe, student, stages, saved, origins, selection, prepared.remarks + remarks)


def _origins(
    recipe: Recipe, teachers: list[LoadedModel], assistants: list[LoadedModel], student: LoadedModel
) -> dict[str, Origin | list[Origin] | None]:
    """Return the origins of all models for the report.

    Raises:
        UsageError: the recipe publishes, and the licence of an origin does not allow it.
    """
    of_teachers = [origin(teacher.name, teacher.commit) for teacher in teachers]
    origins = {
        "teacher": of_teachers if len(of_teachers) > 1 else next(iter(of_teachers), None),
        "assistants": [
            origin(model.name, model.commit, section.pretrained)
            for model, section in zip(assistants, recipe.assistants, strict=True)
        ],
        "student": None
        if recipe.student.is_teacher
        else origin(student.name, student.commit, recipe.student.pretrained),
    }
    if recipe.publish is not None:
        publishable_license(origins, recipe.publish.license)
    return origins
