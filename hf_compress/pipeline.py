"""The whole of a run on one screen: load, measure, step by step, measure again, save."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from hf_compress.checkpoint import save
from hf_compress.data import ImageData, load_data
from hf_compress.data.images import input_size
from hf_compress.embeddings import save_projector
from hf_compress.errors import RunError
from hf_compress.hub.load import LoadedModel
from hf_compress.measure.cost import cost
from hf_compress.measure.features import FeatureQuality
from hf_compress.measure.latency import measure_latency
from hf_compress.measure.remarks import speed_remarks
from hf_compress.measure.runtimes import require
from hf_compress.recipe import MeasureSection, Recipe, TeacherSection
from hf_compress.run import Run, RunFolder, environment
from hf_compress.steps.base import Context
from hf_compress.students import STUDENTS, build_model, build_student
from hf_compress.training import evaluate, predict, train
from hf_compress.unfolding import unfold_batch_norms


class Stages:
    """The rows of the report: teacher, student before, and after every step."""

    def __init__(self, measure: MeasureSection, quality: Callable[[LoadedModel], dict[str, float]]):
        self.measure = measure
        self.quality = quality
        self.rows: list[dict[str, Any]] = []
        self.models: list[LoadedModel] = []
        self.remarks: list[str] = []

    def add(self, stage: str, loaded: LoadedModel, details: dict[str, Any] | None = None) -> None:
        """Measure quality and cost of a model on the test images; latency comes when all models are there."""
        row = {"stage": stage, "model": loaded.name, "quality": self.quality(loaded)}
        row["cost"] = cost(loaded.model, _image(loaded))
        self.rows.append(row | ({"details": details} if details else {}))
        self.models.append(LoadedModel(copy.deepcopy(loaded.model), loaded.processor, loaded.name))

    def add_latency(self) -> None:
        sizes = sorted({1, self.measure.batch_size})
        images = [_image(loaded) for loaded in self.models]
        models = [loaded.model for loaded in self.models]
        options = (models, images, sizes, self.measure.repeats, self.measure.threads)
        for row, latency in zip(self.rows, measure_latency(*options), strict=True):
            row["latency"] = latency
        for runtime in dict.fromkeys(name for name in self.measure.runtimes if name != "eager"):
            try:
                found = measure_latency(*options, runtime)
            except Exception as error:  # compilers raise anything; a finished training is not lost for that
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                self.remarks.append(f"latency with {runtime} could not be measured: {reason}")
                continue
            for row, latency in zip(self.rows, found, strict=True):
                row.setdefault("runtimes", {})[runtime] = latency
        self.remarks += speed_remarks(self.rows)


def compress(recipe: Recipe, output: str | Path = "runs/latest", overwrite: bool = False, log=print) -> Run:
    """Run a recipe.

    Args:
        recipe: what to do.
        output: the run folder to make.
        overwrite: replace an earlier run there.
        log: called with one line for the user at a time.

    Returns:
        The finished run; its folder loads with `AutoModelForImageClassification.from_pretrained`, or with
        `AutoModel.from_pretrained` after `task: features`.

    Raises:
        UsageError: the recipe or the folder is wrong.
        RunError: the run cannot go on. Finished steps stay in `<output>.partial`.
    """
    require(recipe.measure.runtimes)
    folder = RunFolder(output, overwrite)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    started = time.time()
    set_seed(recipe.seed)
    log(f"data: {recipe.data.path}")
    data = load_data(recipe.data, recipe.seed)
    teacher, teacher_details = _teacher(recipe, data, folder, log)
    quality = _quality(recipe, data, teacher)
    student = build_student(recipe.student, data.label_names, teacher, headless=recipe.task == "features")
    if recipe.student.model not in STUDENTS and recipe.student.pretrained:
        _unfold(student, data, log)
    _set_augmentation(recipe, data, teacher, student)

    stages = Stages(recipe.measure, quality)
    if teacher is not None:
        stages.add("teacher", teacher, teacher_details)
    if recipe.student.model != "teacher":
        stages.add("student", student)
    context = Context(data, student.processor, teacher, recipe.seed, folder.work, log=log, artifacts=folder.files)
    for number, (name, step) in enumerate(zip(recipe.step_names, recipe.build_steps(), strict=True), start=1):
        log(f"step {number} of {len(recipe.steps)}: {name}")
        result = step.apply(student.model, context)
        student = LoadedModel(result.model.eval(), student.processor, student.name, projector=context.projector)
        stages.add(f"{number} {name}", student, result.details)
        _save(student, folder.step(number, name))
    stages.add_latency()

    report = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": recipe.task,
        "seconds": round(time.time() - started, 1),
        "rows": stages.rows,
        "remarks": stages.remarks,
        "data": data.facts,
        "seed": recipe.seed,
        "measure": {"split": "test", **recipe.measure.model_dump()},
        "environment": environment(),
    }
    _save(student, folder.files)
    folder.write(recipe.to_yaml(), report)
    return Run(folder.finish(), report)


def _teacher(recipe: Recipe, data: ImageData, folder: RunFolder, log) -> tuple[LoadedModel | None, dict | None]:
    """Load the teacher, bring its labels and the data's into one order, and train it when the recipe says so."""
    section = recipe.teacher
    if section is None:
        if not data.labelled:
            raise RunError(f"{recipe.data.path} has no labels: name a teacher to distil from")
        return None, None
    log(f"teacher: {section.model}")
    if recipe.task == "features":
        return _feature_teacher(section), None
    if section.model in STUDENTS:
        teacher = build_model(section, data.label_names)
    else:
        teacher = build_model(section, None)
        if data.labelled and not data.align_labels(teacher.label_names):
            if section.finetune is None:
                raise RunError(_label_mismatch(teacher, data))
            teacher = build_model(section, data.label_names)
        _unfold(teacher, data, log)
    if section.finetune is None:
        if teacher.new_head:
            raise RunError(f"teacher {section.model} starts from random weights: add 'teacher.finetune'")
        return teacher, None
    _set_augmentation(recipe, data, teacher)
    if section.finetune.layers == "head":
        _freeze_all_but_head(teacher)
    context = Context(data, teacher.processor, None, recipe.seed, folder.work, log=log)
    details = train(teacher.model, context, section.finetune)
    teacher.model.requires_grad_(True)
    save(teacher.model, folder.step(0, "teacher"), teacher.processor)
    return teacher, details


def _feature_teacher(section: TeacherSection) -> LoadedModel:
    """Load the backbone to learn from; a pooling layer that its checkpoint lacks would scramble the embeddings."""
    if section.model in STUDENTS:
        raise RunError(f"teacher {section.model} starts from random weights: name a checkpoint to learn from")
    teacher = build_model(section, None, headless=True)
    if teacher.new_head:
        teacher.model.pooler = None
    return teacher


def _unfold(loaded: LoadedModel, data: ImageData, log) -> None:
    if unfold_batch_norms(loaded, data):
        log(f"{loaded.name}: its batch norms came folded; given the statistics of training images, same logits")


def _label_mismatch(teacher: LoadedModel, data: ImageData) -> str:
    def some(names: list[str]) -> str:
        return ", ".join(names[:3]) + (f" ... ({len(names)} in all)" if len(names) > 3 else "")

    return (
        f"the teacher's labels ({some(teacher.label_names)}) are not the data's ({some(data.label_names)}): "
        "add 'teacher.finetune' to train a new head, for example --set teacher.finetune.epochs=5"
    )


def _quality(
    recipe: Recipe, data: ImageData, teacher: LoadedModel | None
) -> Callable[[LoadedModel], dict[str, float]]:
    """Return what measures a model on the test images."""
    if recipe.task == "features":
        return FeatureQuality(data, teacher)
    if data.labelled:
        return lambda loaded: evaluate(loaded.model, loaded.processor, data, "test")
    _label_with_teacher(data, teacher)
    return lambda loaded: {"teacher_agreement": evaluate(loaded.model, loaded.processor, data, "test")["accuracy"]}


def _label_with_teacher(data: ImageData, teacher: LoadedModel) -> None:
    """Without labels, a student is judged by how often it agrees with the teacher; it never trains on these."""
    for images in (data.validation, data.test):
        images.labels = predict(teacher.model, teacher.processor, images, data.workers).logits.argmax(dim=1).tolist()
    data.label_names = teacher.label_names


def _freeze_all_but_head(teacher: LoadedModel) -> None:
    """Leave the last module that holds weights trainable: the classifier."""
    modules = [m for m in teacher.model.modules() if list(m.parameters(recurse=False))]
    teacher.model.requires_grad_(False)
    modules[-1].requires_grad_(True)


def _set_augmentation(recipe: Recipe, data: ImageData, *models: LoadedModel | None) -> None:
    sizes = [input_size(loaded.processor) for loaded in models if loaded is not None]
    data.set_augmentation(recipe.data.augmentation, (max(h for h, _ in sizes), max(w for _, w in sizes)))


def _save(loaded: LoadedModel, folder: Path) -> None:
    save(loaded.model, folder, loaded.processor)
    if loaded.projector is not None:
        save_projector(loaded.projector, folder)


def _image(loaded: LoadedModel) -> torch.Tensor:
    return torch.zeros(1, 3, *input_size(loaded.processor))
