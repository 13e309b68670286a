"""`hf-compress run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_compress.cli.options import DATA_HELP, Set, TrustRemoteCode, assignments, examples
from hf_compress.errors import Interrupted

if TYPE_CHECKING:
    from hf_compress.recipe import Recipe

EXAMPLES = examples(
    "hf-compress run quickstart",
    "hf-compress run prune-iterative-l1 --teacher microsoft/resnet-18 --data ./photos --output runs/small",
    "hf-compress run my-recipe.yaml --set steps.prune.amount=0.2 --set data.augmentation=light",
)


def add_to(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLES)(run)


def run(
    recipe: Annotated[str, typer.Argument(help="Path of a recipe, or the name of a shipped one.")],
    teacher: Annotated[str | None, typer.Option(help="Hub id (ID@REVISION), timm/..., or folder.")] = None,
    student: Annotated[
        str | None, typer.Option(help="Like --teacher, a name of `hf-compress students`, or auto.")
    ] = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder to make; runs/RECIPE when not given.")] = None,
    set_: Set = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --output.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Run a recipe: a compressed model, its recipe and its report come out as one folder."""
    from hf_compress.recipe import Recipe, model_overrides

    overrides: dict[str, Any] = {}
    for section, model in (("teacher", teacher), ("student", student)):
        if model is not None:
            overrides |= model_overrides(section, model)
    if data is not None:
        overrides["data.path"] = data
    if trust_remote_code:
        overrides["teacher.trust_remote_code"] = True
    parsed = Recipe.load(recipe, overrides | assignments(set_))
    run_recipe(parsed, output or Path("runs") / Path(recipe).stem, overwrite)


def run_recipe(recipe: Recipe, target: Path, overwrite: bool) -> None:
    """Run a recipe, telling the user how it goes, and print the report's table.

    Raises:
        Interrupted: the user pressed Ctrl-C.
    """
    from rich.console import Console

    from hf_compress.measure.table import report_table
    from hf_compress.pipeline import compress

    console = Console()
    try:
        result = compress(
            recipe,
            target,
            overwrite,
            log=lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True),
        )
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted: '{target}' was not written; finished steps are in '{target}.partial'"
        ) from None
    console.print(report_table(result.report))
    console.print(f"model, recipe and report: {result.folder}", markup=False, highlight=False, soft_wrap=True)
