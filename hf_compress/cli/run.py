"""`hf-compress run` and `schema`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_compress.cli.jobs import run_on
from hf_compress.cli.options import (
    DATA_HELP,
    Json,
    Publish,
    Resume,
    Set,
    Track,
    TrustRemoteCode,
    assignments,
    examples,
)
from hf_compress.cli.output import show, show_json
from hf_compress.ground import processes
from hf_compress.ground.errors import Interrupted, UsageError
from hf_compress.ground.progress import say
from hf_compress.run.inputs import refuse_missing
from hf_compress.run.recipe import Recipe, recipe_schema
from hf_compress.sections.values import is_study, read_recipe, with_data, with_model
from hf_compress.study.config import Study, study_schema
from hf_compress.training.tracking import require_tracker

if TYPE_CHECKING:
    from hf_compress.report.run import Run


@examples(
    "hf-compress run quickstart",
    "hf-compress run prune-iterative-l1 --teacher microsoft/resnet-18 --data ./photos --output runs/small",
    "hf-compress run my-recipe.yaml --set steps.prune.amount=0.2 --set data.augmentation=light",
    "hf-compress run my-recipe.yaml --resume",
    "hf-compress run my-recipe.yaml --on l4x1 --time-limit 2h --set publish.to=user/name",
    "hf-compress run leaf-disease-table --data ./photos --set seeds=[0,1]",
)
def run(
    recipe: Annotated[str, typer.Argument(help="Path of a recipe or study, or the name of a shipped one.")],
    teacher: Annotated[str | None, typer.Option(help="Hub id (ID@REVISION), timm/..., or folder.")] = None,
    student: Annotated[
        str | None, typer.Option(help="Like --teacher, a name of `hf-compress students`, or auto.")
    ] = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder to make; runs/RECIPE when not given.")] = None,
    track: Track = None,
    set_: Set = None,
    resume: Resume = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --output.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    publish: Publish = False,
    on: Annotated[
        str | None,
        typer.Option(help="Run it on a machine that the Hub rents out, such as l4x1, and publish the result."),
    ] = None,
    time_limit: Annotated[
        str | None, typer.Option(help="With --on: the most that is paid for, such as 90m; 2h when not given.")
    ] = None,
    package: Annotated[
        str | None, typer.Option(help="With --on: what pip installs there; this version when not given.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="With --on: start without being asked.")] = False,
    json_: Json = False,
) -> None:
    """Run a recipe: a compressed model, its recipe and its report come out as one folder.

    A study (a file with `runs`) makes one such folder a run and seed, and a table of all of them.
    """
    overrides = ({} if track is None else {"track": track}) | assignments(set_)
    target = output or Path("runs") / Path(recipe).stem
    values = read_recipe(recipe)
    _refuse_own_models(values, teacher=teacher, student=student)
    values = _with_models(values, teacher=teacher, student=student)
    values = values if data is None else _with_data(values, data)
    options = {"overwrite": overwrite, "resume": resume, "trust_remote_code": trust_remote_code}
    job = {"time_limit": time_limit, "package": package, "yes": yes}
    if on is not None:
        _refuse(
            {"output": output, "overwrite": overwrite, "resume": resume},
            "runs on this machine: leave it out with --on",
        )
        if is_study(values):
            raise UsageError("--on is for one recipe: start the runs of a study one by one")
        run_on(on, Recipe.from_dict(values, overrides), json_, trust_remote_code, **job)
        return
    _refuse(job, "runs on a rented machine: add --on MACHINE")
    if not is_study(values):
        run_recipe(Recipe.from_dict(values, overrides), target, json_, publish=publish, **options)
    elif publish:
        raise UsageError("--publish is for one recipe: publish the run folders of a study by `hf-compress publish`")
    else:
        show_study(Study.from_dict(values, overrides), target, json_, **options)


def _refuse_own_models(values: Any, **models: str | None) -> None:
    """Refuse a model for all runs of a study some of which name their own: it would change the others alone."""
    runs = values["runs"] if is_study(values) and isinstance(values["runs"], dict) else {}
    for section, model in models.items():
        own = [name for name, run in runs.items() if isinstance(run, dict) and (run.get(section) or run.get("chain"))]
        if model is not None and own:
            key = "chain" if runs[own[0]].get("chain") else section
            raise UsageError(
                f"--{section} would not change all runs of this study: {', '.join(own)} have their own; --set "
                f"runs.{own[0]}.{key}=... changes one"
            )


def _with_models(values: Any, **models: str | None) -> Any:
    """Put the models of the command line into plain values, and say what was left out for them."""
    for section, model in models.items():
        if model is not None:
            values, dropped = with_model(values, section, model)
            if dropped:
                say(f"--{section} {model}: without {', '.join(dropped)} of the recipe's own {section}")
    return values


def _with_data(values: Any, path: str) -> Any:
    values, dropped = with_data(values, path)
    if dropped:
        say(f"--data {path}: without {', '.join(dropped)} of the recipe's own data")
    return values


def _refuse(options: dict[str, object], they_are_for: str) -> None:
    for option, value in options.items():
        if value:
            raise UsageError(f"--{option.replace('_', '-')} is for {they_are_for}")


def schema(
    study: Annotated[bool, typer.Option("--study", help="Of studies, which have several `runs`.")] = False,
) -> None:
    """Print the JSON schema of recipes, for editors."""
    show_json(study_schema() if study else recipe_schema())


def run_recipe(recipe: Recipe, target: Path, as_json: bool, **options: bool) -> None:
    """Run a recipe, telling the user how it goes, and print its report; `options` are those of `compress`.

    Raises:
        Interrupted: the user pressed Ctrl-C.
    """
    refuse_missing(recipe)
    require_tracker(recipe.track)
    if options["resume"]:
        _say_if_new(target, target.with_name(target.name + ".partial"))
    from hf_compress.run.pipeline import compress

    with interruptible(f"interrupted: '{target}' was not written"):
        result = compress(recipe, target, log=say, **options)
    processes.end()
    show_run(result, as_json)


def show_run(result: Run, as_json: bool) -> None:
    """Print the tables of a finished run, and where it is; or its report as JSON."""
    from hf_compress.report.table import deployed_table, report_table, search_table

    report = result.report
    if as_json:
        show_json(report)
        return
    if "search" in report:
        show(search_table(report))
    show(report_table(report), *([deployed_table(report["deployed"])] if report.get("deployed") else []))
    show(f"model, recipe and report: {result.folder}")


def show_study(study: Study, target: Path, as_json: bool, **options: bool) -> None:
    """Run a study, telling the user how it goes, and print its report; `options` are those of `run_study`.

    Raises:
        Interrupted: the user pressed Ctrl-C.
    """
    if options["resume"]:
        _say_if_new(target)
    from hf_compress.study.running import run_study
    from hf_compress.study.table import terminal_table

    kept = f"interrupted: finished runs and their table are in '{target}'; the same command with --resume goes on"
    with interruptible(kept):
        report = run_study(study, target, log=say, **options)
    processes.end()
    if as_json:
        show_json(report)
    else:
        show(terminal_table(report), f"table, figure and runs: {target}")


def _say_if_new(*places: Path) -> None:
    if not any(place.exists() for place in places):
        say(f"--resume: there is nothing to go on with in '{places[0]}', so it is begun")


@contextmanager
def interruptible(interrupted: str) -> Iterator[None]:
    """Make one sentence of Ctrl-C, with the notes of the interruption."""
    try:
        yield
    except KeyboardInterrupt as stop:
        error = Interrupted(interrupted)
        for note in getattr(stop, "__notes__", []):
            error.add_note(note)
        raise error from None
