"""What is said before a distillation begins: what the teacher knows, and what cannot come of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from hf_compress.data import ImageData
from hf_compress.data.images import IGNORED_LABEL
from hf_compress.ground import processes
from hf_compress.ground.units import Units
from hf_compress.models.load import LoadedModel
from hf_compress.models.students import STUDENTS
from hf_compress.run.recipe import Recipe
from hf_compress.run.stages import Stages
from hf_compress.run.teacher import is_trained
from hf_compress.sections.base import TrainingConfig
from hf_compress.sections.models import ModelSection
from hf_compress.tasks import TASKS
from hf_compress.tasks.base import Predict
from hf_compress.training.fitting import quality_kept

FEW_STEPS = 500
"""In fewer, random weights learn little: `quickstart` learns digits in 552, and 20 epochs of 240 photos (160) ended at
chance."""


def logged(remarks: Iterable[str], log: Callable[[str], None]) -> list[str]:
    """Return remarks for the report, after the user has seen them."""
    said = []
    for remark in remarks:
        log(remark)
        said.append(remark)
    return said


def fewer_classes(teachers: list[LoadedModel]) -> Iterator[str]:
    """Say which teachers have more classes than the data."""
    for teacher in teachers:
        if teacher.classes_before is not None:
            yield (
                f"of the {teacher.classes_before:,} classes of teacher {teacher.name} its classifier keeps the "
                f"{len(teacher.label_names)} of the data"
            )


def not_trained(recipe: Recipe, teachers: list[LoadedModel], data: ImageData) -> Iterator[str]:
    """Say which teachers stay as they are although the recipe has a training for them."""
    for (key, section), teacher in zip(recipe.teachers.items(), teachers, strict=True):
        if section.finetune is not None and not is_trained(section, teacher, data, TASKS.get(recipe.task)):
            yield (
                f"teacher {teacher.name} knows the classes of the data and was not trained again; "
                f"'{key}.finetune.always: true' would train it"
            )


def no_int8_file(recipe: Recipe) -> Iterator[str]:
    """Say that a training for int8 will leave no file in int8."""
    if "quantize" in recipe.step_names and not any(section.int8 for section in recipe.deploy):
        yield (
            "the step 'quantize' trains for int8 and leaves the weights in floats: 'deploy: [{to: onnx, int8: true}]' "
            "writes a file in int8, or later 'hf-compress export'"
        )


def before_distilling(
    recipe: Recipe, teacher: LoadedModel | None, data: ImageData, stages: Stages, units: Units, predict: Predict
) -> Iterator[str]:
    """Say what the teacher has on validation images, and what cannot come of it.

    Args:
        teacher: from which the student learns; it has been measured as a stage.
    """
    learns = any(step.needs_teacher and step.distils for step in recipe.build_steps())
    if learns and TASKS.get(recipe.task).needs_targets and data.labelled and not data.by_teacher:
        yield from _teacher(recipe, teacher, data, stages, units, predict)
        yield from _same_images(recipe, data)
        yield from _few_steps(recipe, data)


def _teacher(
    recipe: Recipe, teacher: LoadedModel, data: ImageData, stages: Stages, units: Units, predict: Predict
) -> Iterator[str]:
    """Tell the deciding metric of the teacher, as its training found it where there was one."""
    task = TASKS.get(recipe.task)
    metric, labels = task.deciding, [label for label in data.validation.labels if label != IGNORED_LABEL]
    stage = f"assistant {len(recipe.assistants)}" if recipe.assistants else "teacher"
    details = next(row for row in stages.rows if row["stage"] == stage).get("details", {})
    if "best_epoch" in details:
        found = quality_kept(details, metric)
    else:
        found = units.value("validate teacher", lambda: task.decide(predict(teacher, data.validation)))[metric.name]
    name = stage if recipe.assistants else "the teacher"
    yield f"{name} has {metric.words} {found:.4f} on {len(labels):,} validation images"
    largest = max(Counter(labels).values()) / len(labels)
    if metric.share and task.classes and found <= largest + 2 * math.sqrt(largest * (1 - largest) / len(labels)):
        yield (
            f"always naming the largest class has {largest:.4f}, hardly less, so that there is nothing to learn: "
            f"{_better(recipe, 'best_epoch' in details)}"
        )


def _better(recipe: Recipe, trained: bool) -> str:
    if recipe.assistants:
        return "name another in 'assistants'"
    if len(recipe.teacher.members) > 1:
        return "name others in 'teacher.ensemble'"
    training = "for more 'teacher.finetune.epochs'" if trained else "by 'teacher.finetune.always: true'"
    return f"name another in 'teacher', or train it {training}"


def _same_images(recipe: Recipe, data: ImageData) -> Iterator[str]:
    if data.unlabelled is None and all(map(_from_scratch, [*recipe.teacher.members, *recipe.assistants])):
        images = "" if recipe.data.streaming else ", or add images without labels by 'data.unlabelled'"
        yield (
            f"the teacher learnt from the very {len(data.training):,} labelled images that the student gets, and from "
            "nothing else: it has nothing to add but its answers to them; name a pretrained model in 'teacher'"
            f"{images}"
        )


def _few_steps(recipe: Recipe, data: ImageData) -> Iterator[str]:
    trainings = {
        f"steps.{number}.{name}.epochs": step
        for number, (name, step) in enumerate(zip(recipe.step_names, recipe.build_steps(), strict=True))
        if isinstance(step.config, TrainingConfig)
    }
    key = next((key for key, step in trainings.items() if step.distils), None)
    if key is None or not _from_scratch(recipe.student):
        return
    images = {each: data.with_unlabelled if step.needs_teacher else data.training for each, step in trainings.items()}
    an_epoch = {
        each: math.ceil(len(images[each]) / (step.config.batch_size * processes.count()))
        for each, step in trainings.items()
    }
    made = sum(an_epoch[each] * step.config.epochs for each, step in trainings.items())
    if made < FEW_STEPS:
        epochs = trainings[key].config.epochs + math.ceil((FEW_STEPS - made) / an_epoch[key])
        named = recipe.student.model in STUDENTS
        pretrained = f"set 'student.pretrained: {'auto' if named else 'true'}'"
        yield (
            f"the student starts from random weights and changes them in {made:,} steps, too few for most: "
            f"'{key}: {epochs}' makes {FEW_STEPS}; or {pretrained}"
        )


def _from_scratch(section: ModelSection) -> bool:
    pretrained = getattr(section, "pretrained", True)
    return not pretrained or (section.model in STUDENTS and not isinstance(pretrained, str))
