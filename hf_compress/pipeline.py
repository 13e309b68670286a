"""The whole of a run on one screen: load, measure, step by step, measure again, save."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from transformers import set_seed
from transformers.utils import logging as transformers_logging

from hf_compress.checkpoint import is_compressed
from hf_compress.data import load_data
from hf_compress.environment import environment
from hf_compress.hub.card import write_card
from hf_compress.hub.load import LoadedModel
from hf_compress.hub.origin import Origin, origin, publishable_license
from hf_compress.hub.publish import require_login
from hf_compress.measure.layers import layer_changes
from hf_compress.measure.runtimes import require
from hf_compress.recipe import Recipe
from hf_compress.run import Run, write_run
from hf_compress.run_folder import RunFolder
from hf_compress.stages import Stages, quality_measure
from hf_compress.steps.base import Context
from hf_compress.steps.unit import add_files, apply_once
from hf_compress.students import STUDENTS, build_student
from hf_compress.teacher import load_teacher, train_teacher, unfold


def compress(
    recipe: Recipe, output: str | Path = "runs/latest", overwrite: bool = False, resume: bool = False, log=print
) -> Run:
    """Run a recipe.

    Args:
        recipe: what to do.
        output: the run folder to make.
        overwrite: replace an earlier run there, and discard an unfinished one.
        resume: go on with an unfinished run of the same recipe there, if there is one; leave a finished one alone.
        log: called with one line for the user at a time.

    Returns:
        The finished run; its folder loads with `AutoModelForImageClassification.from_pretrained`, or with
        `AutoModel.from_pretrained` after `task: features`.

    Raises:
        UsageError: the recipe or the folder is wrong.
        RunError: the run cannot go on. What is done stays in `<output>.partial`, for `resume`.
    """
    require(recipe.measure.runtimes)
    if recipe.publish is not None:
        require_login()
    with RunFolder(output, recipe, overwrite, resume) as folder:
        if folder.finished is not None:
            log(f"'{output}' is finished: nothing is left to do")
            return folder.finished
        if folder.resumed:
            log(f"going on with '{output}'; done: {', '.join(folder.units.done()) or 'a part of the first training'}")
        if folder.new_versions:
            log(f"not what the run began with, results may differ: {', '.join(folder.new_versions)}")
        run = _work(recipe, folder, log)
    if recipe.publish is not None:
        trusted = any(section and section.trust_remote_code for section in (recipe.teacher, recipe.student))
        log(f"published: {run.publish(**recipe.publish.model_dump(), trust_remote_code=trusted).url}")
    return run


def _work(recipe: Recipe, folder: RunFolder, log) -> Run:
    """Load, measure, go through the steps, measure again, and write the run folder."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    recipe = folder.pin(recipe)
    log(f"data: {recipe.data.path}")
    data = load_data(recipe.data, recipe.seed)
    folder.remember(images=data.facts)
    seeds = {"recipe": recipe.seed, "student": recipe.seed + 1}
    set_seed(seeds["recipe"])
    teacher, teacher_details = load_teacher(recipe, data, log), None
    recipe = folder.pin(recipe, data=data.facts["revision"], teacher=teacher and teacher.commit)
    if teacher is not None and recipe.teacher.finetune is not None:
        teacher, teacher_details = train_teacher(recipe, teacher, data, folder.units, log)
    quality = quality_measure(recipe, data, teacher)
    set_seed(seeds["student"])
    student = build_student(recipe.student, data.label_names, teacher, headless=recipe.task == "features")
    own_student = recipe.student.model != "teacher"
    recipe = folder.pin(recipe, student=student.commit if own_student else None)
    if recipe.student.model not in STUDENTS and recipe.student.pretrained:
        unfold(student, data, log)
    origins = _origins(recipe, teacher, student)
    data.set_augmentation(recipe.data.augmentation, student.processor, *([teacher.processor] if teacher else []))

    stages = Stages(recipe.measure, quality, folder.units)
    if teacher is not None:
        stages.add("teacher", teacher, teacher_details)
    if own_student:
        stages.add("student", student)
    context = Context(data, student.processor, teacher, recipe.seed, folder.partial, log=log)
    results = []
    for number, (name, step) in enumerate(zip(recipe.step_names, recipe.build_steps(), strict=True), start=1):
        log(f"step {number} of {len(recipe.steps)}: {name}")
        student, details, result = apply_once(step, f"{number} {name}", student, context, folder.units)
        stages.add(f"{number} {name}", student, details)
        results.append(result)
    stages.add_latency()

    def write(files: Path) -> None:
        for result in results:
            add_files(result, files, model=result is results[-1])
        report = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "task": recipe.task,
            "seconds": round(folder.seconds, 1),
            "rows": stages.rows,
            "remarks": stages.remarks,
            "layers": layer_changes(stages.models[-len(recipe.steps) - 1].model, student.model),
            **origins,
            "data": data.facts,
            "labels": data.label_names,
            "loads_with": "hf_compress" if is_compressed(files) else "transformers",
            "seed": recipe.seed,
            "seeds": seeds,
            "measure": {"split": "test", **recipe.measure.model_dump()},
            "environment": environment(),
        }
        repeatable = recipe.model_copy(update={"publish": None})  # whoever repeats the run has another place for it
        write_run(files, repeatable.to_yaml(), report)
        write_card(files)

    return folder.finish(write)


def _origins(recipe: Recipe, teacher: LoadedModel | None, student: LoadedModel) -> dict[str, Origin | None]:
    """Return the origins of teacher and student for the report.

    Raises:
        UsageError: the recipe publishes, and the licence of an origin does not allow it.
    """
    own_student = recipe.student.model != "teacher"
    origins = {
        "teacher": teacher and origin(teacher.name, teacher.commit),
        "student": origin(student.name, student.commit, recipe.student.pretrained) if own_student else None,
    }
    if recipe.publish is not None:
        publishable_license(origins, recipe.publish.license)
    return origins
