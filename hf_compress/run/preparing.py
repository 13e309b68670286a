"""What a run needs before its first step: images, and teachers that know their labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from transformers.utils import logging as transformers_logging

from hf_compress.data import ImageData
from hf_compress.data.annotations import classes_of
from hf_compress.data.images import IGNORED_LABEL
from hf_compress.ground.errors import UsageError
from hf_compress.models.load import LoadedModel
from hf_compress.run.folder import RunFolder
from hf_compress.run.recipe import Recipe
from hf_compress.run.remarks import fewer_classes, logged, no_int8_file, not_trained
from hf_compress.run.seeds import Seeds
from hf_compress.run.student import foreseen_student, with_checkpoints
from hf_compress.run.teacher import as_teacher, is_trained, load_teachers, train_teachers
from hf_compress.sections.base import TrainingConfig
from hf_compress.sections.models import AUTO, TEACHER
from hf_compress.tasks import TASKS
from hf_compress.tasks.base import Predict
from hf_compress.training.batch_norms import require_pairs
from hf_compress.training.predicting import predictor


@dataclass(frozen=True)
class Prepared:
    """What the steps of a run begin with.

    Attributes:
        recipe: with the commits that were loaded.
        data: its labels in the order of the teacher's.
        teachers: all of them; `teacher` is these as one, or None.
        training_details: of the training of each teacher; None where there was none.
        examine: measures a model on the test images: see `Task.examiner`.
        remarks: sentences about the run.
    """

    recipe: Recipe
    data: ImageData
    teachers: list[LoadedModel]
    teacher: LoadedModel | None
    training_details: list[dict[str, Any] | None]
    seeds: Seeds
    predict: Predict
    examine: Callable[[LoadedModel], dict[str, Any]]
    remarks: list[str]


def prepare_run(recipe: Recipe, folder: RunFolder, log) -> Prepared:
    """Load data and teachers, and train these where the recipe says so.

    Raises:
        CompressError: they do not fit together, or the recipe asks for what cannot be.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    seeds = Seeds.of(recipe)
    recipe = folder.pin(recipe)
    log(f"data: {recipe.data.path}")
    task = TASKS.get(recipe.task)
    data = task.read(recipe.data, recipe.seed)
    folder.remember(images=data.facts, pictures=data.digest)
    teachers, data = load_teachers(recipe, data, seeds.teachers, log)
    recipe = folder.pin(
        recipe,
        data=data.facts["revision"],
        unlabelled=data.facts["unlabelled_revisions"],
        teacher=[teacher.commit for teacher in teachers],
    )
    recipe, remarks = with_checkpoints(recipe, data, folder.units, log)
    _foresee(recipe, data, teachers)
    remarks += logged(fewer_classes(teachers), log)
    remarks += logged(not_trained(recipe, teachers, data), log)
    logged(no_int8_file(recipe), log)
    trained = train_teachers(recipe, teachers, data, seeds.teachers, folder.units, log, folder.tracking())
    teachers, training_details = trained
    teacher, data = as_teacher(teachers, data)
    predict = predictor(task, data.workers)
    if task.needs_targets and not data.labelled:
        data = task.labelled_by(teacher, data, predict)
    examine = task.examiner(data, "test", teacher, predict)
    return Prepared(recipe, data, teachers, teacher, training_details, seeds, predict, examine, remarks)


def _foresee(recipe: Recipe, data: ImageData, teachers: list[LoadedModel]) -> None:
    """Refuse what cannot succeed before the first training begins.

    That is a control without labels, held-out images without a label where others have one, trainings on single
    images, from which batch norms cannot learn, and what the first step that does not only train cannot do; the later
    ones get models that are not known yet, as is the student that `auto` selects.
    """
    task = TASKS.get(recipe.task)
    if recipe.control and not data.train.labelled:
        raise UsageError("'control' learns from labels alone, and no training image has one: leave it out")
    for role in ("validation", "test"):
        shown = {number for label in data.splits[role].labels for number in classes_of(label)}
        missing = not shown - {IGNORED_LABEL}
        if task.needs_targets and data.labelled and missing:
            origin = data.facts["splits"][role]["from"]
            raise UsageError(
                f"'data.splits.{role}': no image of {origin} has a label, so nothing can be measured on it: name a "
                "split that shows something, or leave the key out"
            )
    for teacher, section in zip(teachers, recipe.teachers.values(), strict=True):
        if is_trained(section, teacher, data, task):
            tuning = section.finetune
            require_pairs(teacher.model, data.training, tuning.batch_size, tuning.freeze_batch_norms)
    if recipe.student.model == AUTO:
        return
    student = cache(lambda: foreseen_student(recipe, data, next(iter(teachers), None)))
    if recipe.student.model == TEACHER and not recipe.student.is_teacher:
        student()
    learning = [training for training in recipe.trainings.values() if not training.freeze_batch_norms]
    least = min((training.batch_size for training in learning), default=2)
    if min(least, len(data.with_unlabelled)) == 1:
        require_pairs(student().model, data.with_unlabelled, least)
    changing = next((step for step in recipe.build_steps() if not isinstance(step.config, TrainingConfig)), None)
    if changing is not None:
        changing.foresee(student)
