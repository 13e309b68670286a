"""The models between teacher and student: each learns from the one before it and teaches the next.

Mirzadeh et al., "Improved Knowledge Distillation via Teacher Assistant", 2020.
"""

from __future__ import annotations

from hf_compress.data import ImageData
from hf_compress.models.load import LoadedModel
from hf_compress.models.students import STUDENTS, build_student
from hf_compress.run.folder import RunFolder
from hf_compress.run.recipe import Recipe
from hf_compress.run.stages import Stages
from hf_compress.run.step_unit import apply_once
from hf_compress.run.teacher import unfold
from hf_compress.tasks import TASKS
from hf_compress.training.context import Context


def build_assistants(recipe: Recipe, data: ImageData, teacher: LoadedModel | None, log) -> list[LoadedModel]:
    """Build or load the recipe's assistants; a registered one without image size gets that of its own teacher."""
    task, assistants = TASKS.get(recipe.task), []
    for section in recipe.assistants:
        assistant = build_student(section, data.label_names, [teacher, *assistants][-1], task)
        if assistant.name not in STUDENTS and section.pretrained:
            unfold(assistant, data, log)
        assistants.append(assistant)
    return assistants


def teach_assistants(
    recipe: Recipe,
    assistants: list[LoadedModel],
    teacher: LoadedModel | None,
    data: ImageData,
    stages: Stages,
    folder: RunFolder,
    log,
) -> LoadedModel | None:
    """Train the assistants, one after the other, by the recipe's first step `distill`; each is a row.

    Returns:
        The last one, as it is at its best epoch on validation images; the teacher where there is no assistant.
    """
    for number, assistant in enumerate(assistants, start=1):
        name = f"assistant {number}"
        log(f"{name} of {len(assistants)}: {assistant.name}, taught by {teacher.name}")
        shown = data.augmented(recipe.data.augmentation, assistant.processor, teacher.processor)
        task = TASKS.get(recipe.task)
        facts = {"log": log, "task": task, "tracking": folder.tracking()}
        context = Context(shown, assistant.processor, teacher, recipe.seed, folder.partial, **facts)
        distill = recipe.build_steps()[recipe.step_names.index("distill")]
        taught = apply_once(distill, name, assistant, context, folder.units)
        teacher = taught.student
        stages.add(name, teacher, taught.details)
    return teacher
