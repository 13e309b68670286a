"""Runs a study: one run after the other, each in its own folder, and a table that grows with them."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from hf_compress.data.images import input_size
from hf_compress.ground import manifest, processes
from hf_compress.ground.errors import CompressError, UsageError, shown
from hf_compress.ground.files import user_path, write_text
from hf_compress.measure.latency import measure_latency, second_batch
from hf_compress.report.run import REPORT, Run
from hf_compress.run.folder import RunFolder, changed_keys, comparable, is_taken, other_recipe, refuse_other_work
from hf_compress.run.inputs import refuse_overlap
from hf_compress.run.permissions import permitted
from hf_compress.run.pipeline import compress
from hf_compress.study.config import Study, run_folder
from hf_compress.study.page import PAGE_FILES, write_results
from hf_compress.tasks import TASKS
from hf_compress.training.tracking import require_tracker

STUDY = "study.yaml"
Finished = dict[tuple[str, int], dict[str, Any]]


def run_study(
    study: Study,
    output: str | Path,
    overwrite: bool = False,
    resume: bool = False,
    log: Callable[[str], None] = print,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Make every run of a study that is not made yet.

    Table, figure and page are written anew after each run. When all are there, the final models of the first seed are
    timed in turn.

    Args:
        study: what to run.
        output: folder of the study; each run and seed has its own inside, a run folder as `compress` makes it.
        overwrite: replace an earlier study there.
        resume: go on with an earlier study there. Its finished runs stay as they are; runs and seeds may be new.
        log: called with one line for the user at a time.
        trust_remote_code: run Python code of repositories; see `compress`.

    Returns:
        What `report.json` holds: see `study.table.study_report`.

    Raises:
        UsageError: the folder is wrong, or a finished run has another recipe now.
        RunError: a run cannot go on; the sentence names it. Finished runs stay.
    """
    folder = user_path(output)
    for name in study.order():
        recipe = permitted(study.recipe(name, study.seeds[0], folder), trust_remote_code, publish=False)
        require_tracker(recipe.track)
    log = processes.begin(log)

    def open_folder() -> Finished:
        _prepare(study, folder, overwrite, resume)
        finished = _finished(study, folder, trust_remote_code)
        runs = [run_folder(folder, name, seed).name for name, seed in study.jobs()]
        with manifest.adding(folder, "study", runs) as new:
            write_text(new / STUDY, study.to_yaml())
        return finished

    finished = processes.on_main(open_folder)
    jobs, started = study.jobs(), time.monotonic()
    for number, (name, seed) in enumerate(jobs, start=1):
        if (name, seed) in finished:
            log(f"run {number} of {len(jobs)}: {study.label(name)}, seed {seed}: finished earlier")
            continue
        left = [job for job in jobs if job not in finished]
        log(f"run {number} of {len(jobs)}: {study.label(name)}, seed {seed}{_progress(started, left, finished)}")
        try:
            place = run_folder(folder, name, seed)
            again = {"overwrite": True, "resume": True, "trust_remote_code": trust_remote_code}
            run = compress(study.recipe(name, seed, folder), place, log=log, **again)
        except CompressError as error:
            error.args = (f"run '{name}', seed {seed}: {error} (finished runs are kept: --resume)",)
            raise
        finished[name, seed] = run.report
        processes.on_main(lambda: write_results(study, finished, folder))
    return processes.on_main(
        lambda: write_results(study, finished, folder, _latencies(study, folder, trust_remote_code))
    )


def _prepare(study: Study, folder: Path, overwrite: bool, resume: bool) -> None:
    """Make the folder, or see that it may be used.

    Raises:
        UsageError: it holds something else, or an earlier study, and nothing says what to do with it; or it would harm
            what the runs read.
    """
    if overwrite and resume:
        raise UsageError("--overwrite and --resume exclude each other: leave one out")
    try:
        for name in study.runs:
            refuse_overlap(folder, study.recipe(name, study.seeds[0], folder / STUDY))  # where no other run can lie
        if is_taken(folder) and resume:
            manifest.refuse_other_kind(folder, "study")
            manifest.claim(folder, [STUDY, *PAGE_FILES])
        elif is_taken(folder):
            _refuse_to_replace(folder)
            if not overwrite:
                raise UsageError(
                    f"output '{folder}' holds an earlier study: pass --resume to go on, or --overwrite to replace it"
                )
            _remove(study, folder)
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # the latter for a path that holds a NUL
        raise UsageError(f"output {shown(str(folder))} cannot be written: {error}") from None


def _refuse_to_replace(folder: Path) -> None:
    """Require that all that lies in the folder was written by the study and its runs, finished or not."""
    manifest.refuse_to_replace(folder, "study")
    for name in manifest.Manifest.of(folder).runs:
        if is_taken(folder / name):
            manifest.refuse_to_replace(folder / name, "run")
        refuse_other_work(folder / f"{name}.partial")


def _remove(study: Study, folder: Path) -> None:
    """Remove what an earlier study left, unfinished runs first: another process may be at work there."""
    runs = manifest.Manifest.of(folder).runs
    for name in runs:
        if (folder / f"{name}.partial").exists():
            recipe = study.recipe(next(iter(study.runs)), study.seeds[0], folder / STUDY)
            with RunFolder(folder / name, recipe, overwrite=True):
                pass
    for name in runs:
        if (folder / name).exists():
            manifest.remove_files(folder / name)
            (folder / name).rmdir()
    manifest.remove_files(folder)


def _finished(study: Study, folder: Path, trusted: bool) -> Finished:
    """Return the reports of runs that an earlier start finished; a run whose teacher is gone counts as unfinished.

    Raises:
        UsageError: one of them is not the run that the study asks for now.
    """
    earlier = Study.load(folder / STUDY) if (folder / STUDY).is_file() else None
    for name, seed in (earlier or study).jobs():
        if (run_folder(folder, name, seed) / REPORT).is_file():
            _refuse_change(study, earlier, name, seed, folder, trusted)
    finished: Finished = {}
    for name, seed in study.jobs():
        place = run_folder(folder, name, seed)
        if (place / REPORT).is_file() and all((other, seed) in finished for other in study.needs(name)):
            finished[name, seed] = Run.open(place).report
    return finished


def _refuse_change(study: Study, earlier: Study | None, name: str, seed: int, folder: Path, trusted: bool) -> None:
    """Raise UsageError where a finished run is another one now; without its earlier study, its own recipe tells."""
    if (name, seed) not in study.jobs():
        change = "the study lacks it now"
    elif earlier is None:
        recipe = permitted(study.recipe(name, seed, folder), trusted, publish=False)
        change = other_recipe(recipe, run_folder(folder, name, seed))
    else:
        before, after = (comparable(which.recipe(name, seed, folder)) for which in (earlier, study))
        change = changed_keys(before, after)
    if not change:
        return
    raise UsageError(
        f"run '{name}' of seed {seed} is finished in '{folder}', but {change}: undo the change, or choose another "
        "--output, or pass --overwrite to make every run anew"
    )


def _progress(started: float, left: list[tuple[str, int]], finished: Finished) -> str:
    """Say how long the study runs already, and how long it will still take if runs take as long as before."""
    if not finished:
        return ""
    seconds: dict[str, list[float]] = {}
    for (name, _), report in finished.items():
        seconds.setdefault(name, []).append(report["seconds"])
    usual = mean(report["seconds"] for report in finished.values())
    estimate = sum(mean(seconds.get(name, [usual])) for name, _ in left)
    return f" ({_duration(time.monotonic() - started)} so far, about {_duration(estimate)} left)"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _latencies(study: Study, folder: Path, trusted: bool) -> dict[str, dict[str, dict[str, float]]]:
    """Time the final models of the first seed in turn; see `measure_latency` for the values by run."""
    recipes = {name: study.recipe(name, study.seeds[0], folder) for name in study.runs}
    models = [
        TASKS.get(recipe.task).load(str(run_folder(folder, name, study.seeds[0])), trust_remote_code=trusted)
        for name, recipe in recipes.items()
    ]
    measure = next(iter(recipes.values())).measure
    images = [torch.zeros(1, 3, *input_size(loaded.processor)) for loaded in models]
    latencies = measure_latency(
        [loaded.model for loaded in models],
        images,
        sorted({1, second_batch(measure, images)}),
        measure.repeats,
        measure.threads,
    )
    return dict(zip(recipes, latencies, strict=True))
