"""From the `teacher` section of a recipe to a model that knows the data's labels."""

from __future__ import annotations

from typing import Any

from transformers import set_seed

from hf_compress.checkpoint import save
from hf_compress.data import ImageData
from hf_compress.data.loading import positions
from hf_compress.ensemble import as_one
from hf_compress.errors import RunError
from hf_compress.hub.load import LoadedModel
from hf_compress.recipe import Recipe
from hf_compress.run import RunFolder
from hf_compress.sections import TeacherSection
from hf_compress.steps.base import Context
from hf_compress.students import STUDENTS, build_model
from hf_compress.training import train
from hf_compress.unfolding import unfold_batch_norms


def prepare_teacher(
    recipe: Recipe, data: ImageData, folder: RunFolder, log
) -> tuple[LoadedModel | None, list[dict[str, Any] | None]]:
    """Load the teacher, bring its labels and the data's into one order, and train it when the recipe says so.

    Returns:
        The teacher, None where there is none; and for each of its members the details of its training.

    Raises:
        RunError: its labels are not the data's, or it is untrained, and the recipe has no `teacher.finetune`; or the
            members of an ensemble have different labels.
    """
    if recipe.teacher is None:
        if not data.labelled:
            raise RunError(f"{recipe.data.path} has no labels: name a teacher to distil from")
        return None, []
    if recipe.task == "features":
        log(f"teacher: {recipe.teacher.model}")
        return _feature_teacher(recipe.teacher), [None]
    first, *others = recipe.teacher.members
    members = [_member(recipe, first, data, folder, log)]
    for number, section in enumerate(others, start=1):
        set_seed(recipe.seed + number)  # members of one architecture must not be the same model
        members.append(_member(recipe, section, data, folder, log, number))
    teachers, details = zip(*members, strict=True)
    return (_ensemble(list(teachers), data) if others else teachers[0]), list(details)


def _ensemble(teachers: list[LoadedModel], data: ImageData) -> LoadedModel:
    names = teachers[0].label_names
    orders = [positions(names, teacher.label_names) for teacher in teachers]
    for teacher, order in zip(teachers, orders, strict=True):
        if order is None:
            raise RunError(f"{_label_mismatch(teacher, names, teachers[0].name)}: an ensemble has one set of labels")
    data.align_labels(names)
    return as_one(teachers, orders)


def _member(
    recipe: Recipe, section: TeacherSection, data: ImageData, folder: RunFolder, log, number: int = 0
) -> tuple[LoadedModel, dict[str, Any] | None]:
    """Return a teacher in whose order the data's labels are, and the details of its training."""
    log(f"teacher: {section.model}")
    teacher = _classifier(section, data)
    if section.model not in STUDENTS:
        unfold(teacher, data, log)
    if section.finetune is None:
        if teacher.new_head:
            raise RunError(f"teacher {section.model} starts from random weights: add 'teacher.finetune'")
        return teacher, None
    data.set_augmentation(recipe.data.augmentation, teacher.processor)
    if section.finetune.layers == "head":
        _freeze_all_but_head(teacher)
    context = Context(data, teacher.processor, None, recipe.seed + number, folder.work, log=log)
    details = train(teacher.model, context, section.finetune)
    teacher.model.requires_grad_(True)
    save(teacher.model, folder.step(0, f"teacher-{number + 1}" if number else "teacher"), teacher.processor)
    return teacher, details


def unfold(loaded: LoadedModel, data: ImageData, log) -> None:
    """Make folded batch norms of a checkpoint trainable: see `unfolding.unfold_batch_norms`."""
    if unfold_batch_norms(loaded, data):
        log(f"{loaded.name}: its batch norms came folded; given the statistics of training images, same logits")


def _classifier(section: TeacherSection, data: ImageData) -> LoadedModel:
    if section.model in STUDENTS:
        return build_model(section, data.label_names)
    teacher = build_model(section, None)
    if not data.labelled or data.align_labels(teacher.label_names):
        return teacher
    if section.finetune is None:
        raise RunError(
            f"{_label_mismatch(teacher, data.label_names, 'the data')}: add 'teacher.finetune' to train a new head, "
            "for example --set teacher.finetune.epochs=5"
        )
    return build_model(section, data.label_names)


def _feature_teacher(section: TeacherSection) -> LoadedModel:
    """Load the backbone to learn from; a pooling layer that its checkpoint lacks would scramble the embeddings."""
    if section.model in STUDENTS:
        raise RunError(f"teacher {section.model} starts from random weights: name a checkpoint to learn from")
    teacher = build_model(section, None, headless=True)
    if teacher.new_head:
        teacher.model.pooler = None
    return teacher


def _label_mismatch(teacher: LoadedModel, wanted: list[str], of: str) -> str:
    def some(names: list[str]) -> str:
        return ", ".join(names[:3]) + (f" ... ({len(names)} in all)" if len(names) > 3 else "")

    return f"the labels of teacher {teacher.name} ({some(teacher.label_names)}) are not those of {of} ({some(wanted)})"


def _freeze_all_but_head(teacher: LoadedModel) -> None:
    """Leave the last module that holds weights trainable: the classifier."""
    modules = [m for m in teacher.model.modules() if list(m.parameters(recurse=False))]
    teacher.model.requires_grad_(False)
    modules[-1].requires_grad_(True)
