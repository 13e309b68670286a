"""The whole of a run on one screen: load, measure, step by step, measure again, save."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from transformers import set_seed
from transformers.utils import logging as transformers_logging

from hf_compress.checkpoint import is_compressed, save
from hf_compress.data import ImageData
from hf_compress.data.images import IGNORED_LABEL
from hf_compress.ground import processes
from hf_compress.ground.environment import environment
from hf_compress.ground.errors import UsageError
from hf_compress.ground.machine import in_one_sentence
from hf_compress.hub.publish import publish as publish_folder
from hf_compress.hub.publish import require_login
from hf_compress.hub.reload_check import check_reload, some_pictures
from hf_compress.measure.layers import layer_changes
from hf_compress.models.load import LoadedModel
from hf_compress.models.origin import Origin, origin, publishable_license
from hf_compress.models.students import STUDENTS
from hf_compress.report.card import write_card
from hf_compress.report.run import Run, write_run
from hf_compress.run.chain import build_assistants, teach_assistants
from hf_compress.run.control import train_control
from hf_compress.run.deploy import FOLDER as DEPLOYED
from hf_compress.run.deploy import deploy, describe_files
from hf_compress.run.folder import RunFolder
from hf_compress.run.permissions import permitted
from hf_compress.run.recipe import Recipe
from hf_compress.run.remarks import before_distilling, logged, not_trained
from hf_compress.run.seeds import Seeds
from hf_compress.run.selection.select import select_student
from hf_compress.run.stages import Stages
from hf_compress.run.step_unit import apply_once
from hf_compress.run.student import foreseen_student, prepared_student, with_checkpoints
from hf_compress.run.teacher import as_teacher, is_trained, load_teachers, train_teachers, unfold
from hf_compress.runtimes import runtime
from hf_compress.sections.base import TrainingConfig
from hf_compress.sections.models import AUTO, TEACHER
from hf_compress.tasks import TASKS
from hf_compress.training.batch_norms import require_pairs
from hf_compress.training.context import Context
from hf_compress.training.predicting import predictor


def compress(
    recipe: Recipe,
    output: str | Path = "runs/latest",
    overwrite: bool = False,
    resume: bool = False,
    log=print,
    *,
    trust_remote_code: bool = False,
    publish: bool = False,
) -> Run:
    """Run a recipe.

    Args:
        recipe: what to do.
        output: the run folder to make.
        overwrite: replace an earlier run there, and discard an unfinished one.
        resume: go on with an unfinished run of the same recipe there, if there is one; leave a finished one alone.
        log: called with one line for the user at a time.
        trust_remote_code: run the Python code of the repositories that the recipe's models come from. A recipe that
            asks for it is refused otherwise: it may be a stranger's.
        publish: publish the result where the recipe's section `publish` says; likewise.

    Processes that a launcher started work together; the folder must be one that all of them see.

    Returns:
        The finished run; its folder loads with `AutoModelForImageClassification.from_pretrained`, or with
        `AutoModel.from_pretrained` after `task: features`.

    Raises:
        UsageError: the recipe or the folder is wrong.
        RunError: the run cannot go on. What is done stays in `<output>.partial`, for `resume`.
    """
    recipe = permitted(recipe, trust_remote_code, publish)
    log = processes.begin(log)
    for name in ["onnx"] * ("onnxruntime" in recipe.measure.runtimes) + [section.to for section in recipe.deploy]:
        runtime(name)
    if recipe.publish is not None:
        require_login()
    with in_one_sentence(), RunFolder(output, recipe, overwrite, resume) as folder:
        if folder.finished is not None:
            log(f"'{output}' is finished: nothing is left to do{' but to publish it' if recipe.publish else ''}")
            run = folder.finished
        else:
            _log_resumed(folder, output, log)
            run = _work(recipe, folder, log)
    if recipe.publish is not None:
        options = recipe.publish.model_dump() | {"trust_remote_code": trust_remote_code}
        log(processes.on_main(lambda: str(publish_folder(run.folder, **options))))
    return run


def _log_resumed(folder: RunFolder, output: str | Path, log) -> None:
    if folder.resumed:
        log(f"going on with '{output}'; done: {', '.join(folder.units.done()) or 'a part of the first training'}")
    if folder.new_versions:
        log(f"not what the run began with, results may differ: {', '.join(folder.new_versions)}")


def _work(recipe: Recipe, folder: RunFolder, log) -> Run:
    """Load, measure, go through the steps, measure again, and write the run folder."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    seeds = Seeds.of(recipe)
    recipe = folder.pin(recipe)
    log(f"data: {recipe.data.path}")
    task = TASKS.get(recipe.task)
    data = task.read(recipe.data, recipe.seed)
    folder.remember(images=data.facts)
    teachers, data = load_teachers(recipe, data, seeds.teachers, log)
    recipe = folder.pin(
        recipe,
        data=data.facts["revision"],
        unlabelled=data.facts["unlabelled_revisions"],
        teacher=[teacher.commit for teacher in teachers],
    )
    recipe, remarks = with_checkpoints(recipe, data, folder.units, log)
    _foresee(recipe, data, teachers)
    remarks += logged(not_trained(recipe, teachers, data), log)
    teachers, training_details = train_teachers(recipe, teachers, data, seeds.teachers, folder.units, log)
    teacher, data = as_teacher(teachers, data)
    predict = predictor(task, data.workers)
    if task.needs_targets and not data.labelled:
        data = task.labelled_by(teacher, data, predict)
    examine = task.examiner(data, "test", teacher, predict)
    recipe, selection = select_student(recipe, data, teacher, folder.units, log)
    set_seed(seeds.student)
    assistants = build_assistants(recipe, data, teacher, log)
    student, made = prepared_student(recipe, data, [teacher, *assistants][-1], folder.units, log)
    recipe = folder.pin(
        recipe,
        assistants=[assistant.commit for assistant in assistants],
        student=None if recipe.student.model == TEACHER else student.commit,
    )
    if student.name not in STUDENTS and recipe.student.pretrained:
        unfold(student, data, log)
    origins = _origins(recipe, teachers, assistants, student)

    stages = Stages(recipe.measure, examine, folder.units)
    if teacher is not None:
        stages.add_teacher(teacher, training_details)
    last_teacher = teach_assistants(recipe, assistants, teacher, data, stages, folder, log)
    if not recipe.student.is_teacher:
        stages.add("student", student, made)
    remarks += logged(before_distilling(recipe, last_teacher, data, stages, folder.units, predict), log)
    processors = [student.processor, *([last_teacher.processor] if last_teacher else [])]
    shown = data.augmented(recipe.data.augmentation, *processors)
    facts = {"log": log, "task": task, "measure": recipe.measure}
    context = Context(shown, student.processor, last_teacher, recipe.seed, folder.partial, **facts)
    initial = replace(student, model=copy.deepcopy(student.model)) if recipe.control else None
    saved, first = None, context
    for number, (name, step) in enumerate(zip(recipe.step_names, recipe.build_steps(), strict=True), start=1):
        log(f"step {number} of {len(recipe.steps)}: {name}")
        applied = apply_once(step, f"{number} {name}", student, context, folder.units)
        student, context, saved = applied.student, applied.context, applied.folder
        stages.add(f"{number} {name}", student, applied.details)
    if not recipe.steps:
        stages.add("unchanged", student)
    if recipe.control:
        train_control(recipe, initial, first, stages, folder.units)
    stages.add_latency()
    deployed, exports = deploy(recipe, student, data, stages, folder.units, log) if recipe.deploy else ({}, None)

    def write(files: Path) -> None:
        if saved is None:
            save(student.model.eval(), files, student.processor)
        else:
            shutil.copytree(saved, files, dirs_exist_ok=True)
        if exports is not None:
            shutil.copytree(exports / DEPLOYED, files / DEPLOYED)
            describe_files(deployed["deployed"], files, student)
        check_reload(files, student, some_pictures(data.test), task, data.label_names)
        report = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "task": recipe.task,
            "seconds": round(folder.seconds, 1),
            "rows": stages.rows,
            **deployed,
            **({"control": stages.control} if stages.control else {}),
            "remarks": remarks + stages.remarks,
            "layers": layer_changes(stages.models[-len(recipe.steps) - 1].model, student.model),
            **origins,
            **selection,
            "data": data.facts,
            "labels": data.label_names,
            "loads_with": "hf_compress" if is_compressed(files) else "transformers",
            "seed": recipe.seed,
            "seeds": seeds.facts,
            "measure": {"split": "test", **recipe.measure.model_dump()},
            "environment": environment(),
        }
        repeatable = recipe.model_copy(update={"publish": None})  # whoever repeats the run has another place for it
        write_run(files, repeatable.to_yaml(), report)
        write_card(files)

    return folder.finish(write)


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
        missing = all(label == IGNORED_LABEL for label in data.splits[role].labels)
        if task.needs_targets and data.labelled and missing:
            origin = data.facts["splits"][role]["from"]
            raise UsageError(
                f"'data.splits.{role}': no image of {origin} has a label, so nothing can be measured on it: name a "
                "split with labels, or leave the key out"
            )
    for teacher, section in zip(teachers, recipe.teachers.values(), strict=True):
        if is_trained(section, teacher, data, task):
            require_pairs(teacher.model, data.training, section.finetune.batch_size)
    if recipe.student.model == AUTO:
        return
    student = cache(lambda: foreseen_student(recipe, data, next(iter(teachers), None)))
    if recipe.student.is_thinner:
        student()
    least = min((training.batch_size for training in recipe.trainings.values()), default=2)
    if min(least, len(data.with_unlabelled)) == 1:
        require_pairs(student().model, data.with_unlabelled, least)
    changing = next((step for step in recipe.build_steps() if not isinstance(step.config, TrainingConfig)), None)
    if changing is not None:
        changing.foresee(student)


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
