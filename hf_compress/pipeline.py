"""The whole of a run on one screen: load, measure, step by step, measure again, save."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

from transformers import set_seed
from transformers.utils import logging as transformers_logging

from hf_compress.chain import build_assistants
from hf_compress.checkpoint import save
from hf_compress.data import ImageData, load_data
from hf_compress.embeddings import save_projector
from hf_compress.hub.card import write_card
from hf_compress.hub.load import LoadedModel
from hf_compress.hub.origin import Origin, origin, publishable_license
from hf_compress.hub.publish import require_login
from hf_compress.measure.layers import layer_changes
from hf_compress.measure.runtimes import require
from hf_compress.recipe import Recipe
from hf_compress.run import Run, RunFolder, environment
from hf_compress.selection.select import select_student
from hf_compress.stages import Stages, quality_measure
from hf_compress.steps.base import Context
from hf_compress.students import STUDENTS, build_student
from hf_compress.teacher import prepare_teacher, unfold


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
    if recipe.publish is not None:
        require_login()
    folder = RunFolder(output, overwrite)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    started = time.time()
    set_seed(recipe.seed)
    log(f"data: {recipe.data.path}")
    data = load_data(recipe.data, recipe.seed)
    teacher, training_details = prepare_teacher(recipe, data, folder, log)
    quality = quality_measure(recipe, data, teacher)
    recipe, selection = select_student(recipe, data, teacher, folder.work, log)
    assistants = build_assistants(recipe, data, teacher, log)
    last_teacher = assistants[-1] if assistants else teacher
    student = build_student(recipe.student, data.label_names, last_teacher, headless=recipe.task == "features")
    if recipe.student.model not in STUDENTS and recipe.student.pretrained:
        unfold(student, data, log)
    recipe, origins = _pinned(recipe, data, teacher, assistants, student)

    stages = Stages(recipe.measure, quality)
    if teacher is not None:
        stages.add_teacher(teacher, training_details)
    if recipe.student.model != "teacher":
        stages.add("student", student)
    lookers_on = [last_teacher.processor] if last_teacher else []
    data.set_augmentation(recipe.data.augmentation, student.processor, *lookers_on)
    context = Context(data, student.processor, last_teacher, recipe.seed, folder.work, log=log, artifacts=folder.files)
    for number, (name, step) in enumerate(zip(recipe.step_names, recipe.build_steps(), strict=True), start=1):
        log(f"step {number} of {len(recipe.steps)}: {name}")
        result = step.apply(student.model, context)
        student = LoadedModel(result.model.eval(), student.processor, student.name, projector=context.projector)
        stages.add(f"{number} {name}", student, result.details)
        _save(student, folder.step(number, name))
    stages.add_latency()

    _save(student, folder.files)
    report = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": recipe.task,
        "seconds": round(time.time() - started, 1),
        "rows": stages.rows,
        "remarks": stages.remarks,
        "layers": layer_changes(stages.models[-len(recipe.steps) - 1].model, student.model),
        **origins,
        **selection,
        "data": data.facts,
        "labels": data.label_names,
        "loads_with": "hf_compress" if hasattr(student.model.config, "quantization_config") else "transformers",
        "seed": recipe.seed,
        "measure": {"split": "test", **recipe.measure.model_dump()},
        "environment": environment(),
    }
    repeatable = recipe.model_copy(update={"publish": None})  # whoever repeats the run has another place for it
    folder.write(repeatable.to_yaml(), report)
    run = Run(folder.finish(), report)
    write_card(run.folder)
    if recipe.publish is not None:
        models = [*(recipe.teacher.members if recipe.teacher else []), recipe.student]
        trusted = any(section.trust_remote_code for section in models)
        log(f"published: {run.publish(**recipe.publish.model_dump(), trust_remote_code=trusted).url}")
    return run


def _pinned(
    recipe: Recipe,
    data: ImageData,
    teacher: LoadedModel | None,
    assistants: list[LoadedModel],
    student: LoadedModel,
) -> tuple[Recipe, dict[str, Origin | list[Origin] | None]]:
    """Return the recipe with the commits that were loaded, and the origins of all models for the report.

    Raises:
        UsageError: the recipe publishes, and the licence of an origin does not allow it.
    """
    own_student = recipe.student.model != "teacher"
    members = teacher.members if teacher else []
    commits = {
        "teacher": [member.commit for member in members],
        "assistants": [model.commit for model in assistants],
        "student": student.commit if own_student else None,
        "data": data.facts["revision"],
        "unlabelled": data.facts["unlabelled_revisions"],
    }
    teachers = [origin(member.name, member.commit) for member in members]
    origins = {
        "teacher": teachers if len(teachers) > 1 else next(iter(teachers), None),
        "assistants": [
            origin(model.name, model.commit, section.pretrained)
            for model, section in zip(assistants, recipe.assistants, strict=True)
        ],
        "student": origin(student.name, student.commit, recipe.student.pretrained) if own_student else None,
    }
    if recipe.publish is not None:
        publishable_license(origins, recipe.publish.license)
    return recipe.pinned(**commits), origins


def _save(loaded: LoadedModel, folder: Path) -> None:
    save(loaded.model, folder, loaded.processor)
    if loaded.projector is not None:
        save_projector(loaded.projector, folder)
