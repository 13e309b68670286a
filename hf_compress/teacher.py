"""From the `teacher` section of a recipe to a model that knows the data's labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_compress.checkpoint import load_like, save
from hf_compress.data import ImageData
from hf_compress.errors import RunError
from hf_compress.files import read_json, write_json
from hf_compress.hub.load import LoadedModel
from hf_compress.recipe import Recipe, TeacherSection
from hf_compress.steps.base import Context
from hf_compress.students import STUDENTS, build_model
from hf_compress.training import train
from hf_compress.unfolding import unfold_batch_norms
from hf_compress.units import Units

DETAILS = "training.json"


def load_teacher(recipe: Recipe, data: ImageData, log) -> LoadedModel | None:
    """Load the teacher, and bring its labels and the data's into one order.

    Returns:
        The teacher; None where the recipe has none.

    Raises:
        RunError: its labels are not the data's, or it is untrained, and the recipe has no `teacher.finetune`.
    """
    section = recipe.teacher
    if section is None:
        if not data.labelled:
            raise RunError(f"{recipe.data.path} has no labels: name a teacher to distil from")
        return None
    log(f"teacher: {section.model}")
    if recipe.task == "features":
        return _feature_teacher(section)
    teacher = _classifier(section, data)
    if section.model not in STUDENTS:
        unfold(teacher, data, log)
    if section.finetune is None and teacher.new_head:
        raise RunError(f"teacher {section.model} starts from random weights: add 'teacher.finetune'")
    return teacher


def train_teacher(
    recipe: Recipe, teacher: LoadedModel, data: ImageData, units: Units, log
) -> tuple[LoadedModel, dict[str, Any]]:
    """Train the teacher as `teacher.finetune` says, once.

    Returns:
        The trained teacher, and the details of its training.
    """

    def work(new: Path, in_progress: Path) -> None:
        finetune = recipe.teacher.finetune
        if finetune.layers == "head":
            _freeze_all_but_head(teacher)
        context = Context(data, teacher.processor, None, recipe.seed, in_progress, log=log, resumable=True)
        details = train(teacher.model, context, finetune)
        save(teacher.model, new, teacher.processor)
        write_json(new / DETAILS, details)

    data.set_augmentation(recipe.data.augmentation, teacher.processor)
    folder = units.once("teacher", work)
    return replace(teacher, model=load_like(teacher.model, folder)), read_json(folder / DETAILS)


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
        raise RunError(_label_mismatch(teacher, data))
    return build_model(section, data.label_names)


def _feature_teacher(section: TeacherSection) -> LoadedModel:
    """Load the backbone to learn from; a pooling layer that its checkpoint lacks would scramble the embeddings."""
    if section.model in STUDENTS:
        raise RunError(f"teacher {section.model} starts from random weights: name a checkpoint to learn from")
    teacher = build_model(section, None, headless=True)
    if teacher.new_head:
        teacher.model.pooler = None
    return teacher


def _label_mismatch(teacher: LoadedModel, data: ImageData) -> str:
    def some(names: list[str]) -> str:
        return ", ".join(names[:3]) + (f" ... ({len(names)} in all)" if len(names) > 3 else "")

    return (
        f"the teacher's labels ({some(teacher.label_names)}) are not the data's ({some(data.label_names)}): "
        "add 'teacher.finetune' to train a new head, for example --set teacher.finetune.epochs=5"
    )


def _freeze_all_but_head(teacher: LoadedModel) -> None:
    """Leave the last module that holds weights trainable: the classifier."""
    modules = [m for m in teacher.model.modules() if list(m.parameters(recurse=False))]
    teacher.model.requires_grad_(False)
    modules[-1].requires_grad_(True)
