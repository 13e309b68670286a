"""From the `teacher` section of a recipe to a model that knows the data's labels."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from hf_compress.checkpoint import load_like, save
from hf_compress.checkpoint.labels import positions, some_labels
from hf_compress.data import ImageData
from hf_compress.ground.errors import RunError
from hf_compress.ground.files import read_json, write_json
from hf_compress.ground.units import Units
from hf_compress.models.ensemble import as_one
from hf_compress.models.folding import unfold_batch_norms
from hf_compress.models.head import head_alone
from hf_compress.models.load import LoadedModel
from hf_compress.models.students import STUDENTS, build_model
from hf_compress.run.recipe import Recipe
from hf_compress.sections.models import TeacherSection
from hf_compress.tasks import TASKS, Task
from hf_compress.training.context import Context
from hf_compress.training.fitting import quality_kept, train
from hf_compress.training.probing import solve_head
from hf_compress.training.tracking import Tracking

TRAINING = "training.json"
FEW_IMAGES = 1000
"""With fewer, a frozen body is often as good as a trained one, and a better teacher (Marrie et al., 2024)."""


def load_teachers(recipe: Recipe, data: ImageData, seeds: list[int], log) -> tuple[list[LoadedModel], ImageData]:
    """Load the teacher, all members of an ensemble, or none.

    Args:
        seeds: of the random weights of each.

    Returns:
        The teachers, and the data with its labels in the order of the last.

    Raises:
        RunError: a teacher's labels are not the data's, or it is untrained, and the recipe has no `teacher.finetune`.
    """
    if recipe.teacher is None:
        if not data.labelled:
            raise RunError(f"{recipe.data.path} has no labels: name a teacher to distil from")
        return [], data
    loaded = []
    for section, seed in zip(recipe.teacher.members, seeds, strict=True):
        log(f"teacher: {section.model}")
        set_seed(seed)
        teacher, data = _load(section, data, TASKS.get(recipe.task), log)
        loaded.append(teacher)
    return loaded, data


def is_trained(section: TeacherSection, teacher: LoadedModel, data: ImageData, task: Task) -> bool:
    """Return whether a run trains a teacher: one that has the data's classes, by name, and no others is only asked.

    Args:
        data: as `load_teachers` returns it.
    """
    ready = task.classes and data.named and not teacher.new_head and teacher.classes_before is None
    return section.finetune is not None and (section.finetune.always or not ready)


def train_teachers(
    recipe: Recipe,
    teachers: list[LoadedModel],
    data: ImageData,
    seeds: list[int],
    units: Units,
    log,
    tracking: Tracking | None = None,
) -> tuple[list[LoadedModel], list[dict[str, Any] | None]]:
    """Train the teachers, each as its `finetune` says, once; see `is_trained`.

    Args:
        seeds: of each training.

    Returns:
        The teachers, and for each the details of its training; None where there was none.
    """
    trained, task = [], TASKS.get(recipe.task)
    sections = recipe.teachers.values()
    for number, (section, teacher, seed) in enumerate(zip(sections, teachers, seeds, strict=True), start=1):
        if not is_trained(section, teacher, data, task):
            trained.append((teacher, None))
            continue
        name = "teacher" if len(teachers) == 1 else f"teacher {number}"
        own_order = data.aligned(teacher.label_names) or data
        shown = own_order.augmented(recipe.data.augmentation, teacher.processor)
        own = Units(units.folder, seed)
        facts = {"log": log, "task": task, "tracking": tracking, "resumable": True}
        trained.append(_train_once(name, section, teacher, own, shown, facts))
    return [teacher for teacher, _ in trained], [details for _, details in trained]


def as_teacher(teachers: list[LoadedModel], data: ImageData) -> tuple[LoadedModel | None, ImageData]:
    """Return the teachers as one, or None when there is none, and the data with its labels in that one's order.

    Raises:
        RunError: their labels differ.
    """
    if len(teachers) < 2:
        return next(iter(teachers), None), data
    names = teachers[0].label_names
    orders = [positions(names, teacher.label_names) for teacher in teachers]
    for teacher, order in zip(teachers, orders, strict=True):
        if order is None:
            raise RunError(f"{_label_mismatch(teacher, names, teachers[0].name)}: an ensemble has one set of labels")
    return as_one(teachers, orders), data.aligned(names) or data


def _train_once(
    name: str, section: TeacherSection, teacher: LoadedModel, units: Units, data: ImageData, facts: dict[str, Any]
) -> tuple[LoadedModel, dict[str, Any]]:
    def work(new: Path, in_progress: Path) -> None:
        context = Context(data, teacher.processor, None, units.seed, in_progress, **facts)
        details = _train_layers(section, teacher, context)
        save(teacher.model, new, teacher.processor)
        write_json(new / TRAINING, details)

    folder = units.once(name, work)
    return replace(teacher, model=load_like(teacher.model, folder)), read_json(folder / TRAINING)


def _train_layers(section: TeacherSection, teacher: LoadedModel, context: Context) -> dict[str, Any]:
    """Train the layers that the section names, and return the details for the report."""
    training, has_new_head = section.finetune, teacher.new_head and section.model not in STUDENTS
    if training.layers == "auto" and has_new_head and len(context.data.training) < FEW_IMAGES:
        try:
            solve_head(teacher.model, context)
        except RunError as error:
            context.log(f"  the head of teacher {teacher.name} is not tried alone: {error}")
        else:
            return _train_from_head(section, teacher, context)
    with head_alone(teacher.model, teacher.processor) if training.layers == "head" else nullcontext():
        return train(teacher.model, context, training)


def _train_from_head(section: TeacherSection, teacher: LoadedModel, context: Context) -> dict[str, Any]:
    """Train all layers from a head on that is solved for; leave what is better on validation, or the head alone.

    To begin with such a head is better for all layers, too: see docs/distillation.md.
    """
    model, metric = teacher.model, context.task.deciding
    probed = copy.deepcopy(model.state_dict())
    context.log("  the head alone is solved for; now all layers")
    trained = train(model, context, section.finetune)
    alone = trained["began"]
    found = [epoch[f"validation_{metric.name}"] for epoch in (alone, *trained["epochs"])]
    if metric.best(found) == 0:
        model.load_state_dict(probed)
        context.log(f"  all layers: no better than {found[0]:.4f}; the body stays as it was")
        return {"trained_layers": "head", "head_alone": alone, "rejected": trained}
    context.log(f"  all layers: {quality_kept(trained, metric):.4f}; they stay trained")
    return trained | {"trained_layers": "all", "head_alone": alone}


def unfold(loaded: LoadedModel, data: ImageData, log) -> None:
    """Make folded batch norms of a checkpoint trainable: see `unfolding.unfold_batch_norms`."""
    if unfold_batch_norms(loaded, data):
        log(f"{loaded.name}: its batch norms came folded; given the statistics of training images, same logits")


def _load(section: TeacherSection, data: ImageData, task: Task, log) -> tuple[LoadedModel, ImageData]:
    if section.model in STUDENTS and not task.trains_teachers:
        raise RunError(f"teacher {section.model} starts from random weights: name a checkpoint to learn from")
    if task.classes:
        teacher, data = _with_labels_of(data, section, task)
    else:
        teacher = build_model(section, None, task)
    if section.model not in STUDENTS and task.trains_teachers:
        unfold(teacher, data, log)
    if section.finetune is None and teacher.new_head:
        task.untrained_teacher(teacher)
    return teacher, data


def _with_labels_of(data: ImageData, section: TeacherSection, task: Task) -> tuple[LoadedModel, ImageData]:
    """Return a teacher of the data's classes, and the data with its labels in the teacher's order."""
    if section.model in STUDENTS:
        return build_model(section, data.label_names, task), data
    teacher = build_model(section, None, task)
    if not data.labelled:
        return teacher, data
    if (aligned := data.aligned(teacher.label_names)) is not None:
        return teacher, aligned
    renamed = build_model(section, data.label_names, task)
    if renamed.classes_before is not None:
        return renamed, data
    if section.finetune is None:
        raise RunError(
            f"{_label_mismatch(teacher, data.label_names, 'the data')}: add 'teacher.finetune' to train a new head, "
            "for example --set teacher.finetune.epochs=5"
        )
    return replace(renamed, new_head=True), data  # where both have mere numbers, the old one that nobody vouches for


def _label_mismatch(teacher: LoadedModel, wanted: list[str], of: str) -> str:
    own = some_labels(teacher.label_names)
    return f"the labels of teacher {teacher.name} ({own}) are not those of {of} ({some_labels(wanted)})"
