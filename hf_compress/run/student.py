"""From the `student` section of a recipe to the model that is compressed."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_compress.checkpoint import load_like, save
from hf_compress.data import ImageData
from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import read_json, write_json
from hf_compress.ground.units import Units
from hf_compress.models.load import LoadedModel
from hf_compress.models.students import build_student, find_checkpoint
from hf_compress.run.recipe import Recipe
from hf_compress.sections.models import AUTO
from hf_compress.steps.pruning.thinning import thinned
from hf_compress.tasks import TASKS
from hf_compress.training.context import Context

DETAILS = "copy.json"


def with_checkpoints(recipe: Recipe, data: ImageData, units: Units, log) -> tuple[Recipe, list[str]]:
    """Return the recipe with a checkpoint, or false, in place of each `pretrained: auto`, and what to say of it."""
    recipe, task, said = recipe.model_copy(deep=True), TASKS.get(recipe.task), []
    for key, section in recipe.students.items():
        if section.pretrained == AUTO:
            section.pretrained, sentence = units.value(
                f"{key}.pretrained", partial(find_checkpoint, section, data.label_names, task), alone=True
            )
            log(sentence)
            said.append(sentence)
    return recipe, said


def _copyable(student: LoadedModel) -> LoadedModel:
    """Return a copy of the teacher, unless it lacks what its class would make anew when the copy is loaded.

    Raises:
        UsageError: it came without its pooling layer, and a random one would scramble the copy's embeddings.
    """
    if getattr(student.model, "pooler", student) is None:
        raise UsageError(
            f"'student.model: teacher' cannot be thinner: {student.name} came without its pooling layer, with which "
            "a copy would be loaded; name a registered student or a checkpoint"
        )
    return student


def foreseen_student(recipe: Recipe, data: ImageData, teacher: LoadedModel | None) -> LoadedModel:
    """Return a model of the shape that the student will have, before the teacher is trained."""
    student = build_student(recipe.student, data.label_names, teacher, TASKS.get(recipe.task))
    if not recipe.student.is_thinner:
        return student
    return replace(_copyable(student), model=thinned(student, recipe.student)[0])


def prepared_student(
    recipe: Recipe, data: ImageData, teacher: LoadedModel | None, units: Units, log
) -> tuple[LoadedModel, dict[str, Any] | None]:
    """Return the model to compress, and the details of a copy of the teacher that is thinner, which is made once."""
    task = TASKS.get(recipe.task)
    student = build_student(recipe.student, data.label_names, teacher, task)
    if not recipe.student.is_thinner:
        return student, None

    def work(new: Path, in_progress: Path) -> None:
        log(f"student: a copy of the teacher, width {recipe.student.width:g}, depth {recipe.student.depth:g}")
        context = Context(data, student.processor, None, units.seed, in_progress, log=log, task=task)
        model, details = thinned(student, recipe.student, context)
        save(model, new, student.processor)
        write_json(new / DETAILS, details)

    folder = units.once("student", work, alone=True)
    details = {"copy_of_the_teacher": read_json(folder / DETAILS)}
    return replace(student, model=load_like(student.model, folder)), details
