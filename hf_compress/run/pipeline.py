"""The whole of a run on one screen: prepare, take the steps, then measure, deploy and save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hf_compress.ground import processes
from hf_compress.ground.hub_failures import require_login
from hf_compress.ground.machine import in_one_sentence
from hf_compress.hub.publish import publish as publish_folder
from hf_compress.report.run import Run
from hf_compress.run.finishing import finish
from hf_compress.run.folder import RunFolder
from hf_compress.run.permissions import permitted
from hf_compress.run.preparing import prepare_run
from hf_compress.run.recipe import Recipe
from hf_compress.run.taking import take_steps
from hf_compress.runtimes import runtime
from hf_compress.training.tracking import require_tracker


def compress(
    recipe: Recipe,
    output: str | Path = "runs/latest",
    overwrite: bool = False,
    resume: bool = False,
    log: Callable[[str], None] = print,
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
    run = make(recipe, output, overwrite, resume, log)
    send(run, recipe, trust_remote_code, log)
    return run


def make(recipe: Recipe, output: str | Path, overwrite: bool, resume: bool, log: Callable[[str], None]) -> Run:
    """Run a recipe that is permitted, and publish nothing; see `compress`."""
    log = processes.begin(log)
    for name in ["onnx"] * ("onnxruntime" in recipe.measure.runtimes) + [section.to for section in recipe.deploy]:
        runtime(name)
    require_tracker(recipe.track)
    if recipe.publish is not None:
        require_login()
    with in_one_sentence(), RunFolder(output, recipe, overwrite, resume) as folder:
        if folder.finished is not None:
            log(f"'{output}' is finished: nothing is left to do{' but to publish it' if recipe.publish else ''}")
            return folder.finished
        _log_resumed(folder, output, log)
        prepared = prepare_run(recipe, folder, log)
        return finish(prepared, take_steps(prepared, folder, folder.units, log), folder, log)


def send(run: Run, recipe: Recipe, trust_remote_code: bool, log: Callable[[str], None]) -> None:
    """Publish a run where its recipe says, if it does."""
    if recipe.publish is not None:
        options = recipe.publish.model_dump() | {"trust_remote_code": trust_remote_code}
        url = processes.on_main(lambda: str(publish_folder(run.folder, **options)))
        if processes.is_main():
            log(url)


def _log_resumed(folder: RunFolder, output: str | Path, log: Callable[[str], None]) -> None:
    if folder.resumed:
        log(f"going on with '{output}'; done: {', '.join(folder.units.done()) or 'a part of the first training'}")
    if folder.new_versions:
        log(f"not what the run began with, results may differ: {', '.join(folder.new_versions)}")
