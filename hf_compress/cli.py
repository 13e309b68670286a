"""The command line: `hf-compress run`, `evaluate`, `students`, `schema`."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_compress.errors import CompressError, UsageError

app = typer.Typer(
    help="Prune and distil Hugging Face vision models into really smaller checkpoints.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

RUN_EXAMPLES = """
[bold]Examples[/bold]

  hf-compress run quickstart

  hf-compress run prune-iterative-l1 --teacher microsoft/resnet-18 --data ./photos --output runs/small

  hf-compress run my-recipe.yaml --set steps.prune.amount=0.2 --set data.augmentation=light
"""
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code of the repository.")]


@app.command(epilog=RUN_EXAMPLES)
def run(
    recipe: Annotated[str, typer.Argument(help="Path of a recipe, or the name of a shipped one.")],
    teacher: Annotated[str | None, typer.Option(help="Hub id (ID@REVISION), timm/..., or folder.")] = None,
    student: Annotated[str | None, typer.Option(help="Like --teacher, or a name of `hf-compress students`.")] = None,
    data: Annotated[str | None, typer.Option(help="Hub data set, folder of images or parquet, or digits.")] = None,
    output: Annotated[Path | None, typer.Option(help="Run folder to make; runs/RECIPE when not given.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: any value of the recipe.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in --output.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Run a recipe: a compressed model, its recipe and its report come out as one folder."""
    from hf_compress.recipe import Recipe

    overrides: dict[str, Any] = {}
    for section, model in (("teacher", teacher), ("student", student)):
        if model is not None:
            name, _, revision = model.partition("@")
            overrides |= {f"{section}.model": name} | ({f"{section}.revision": revision} if revision else {})
    if data is not None:
        overrides["data.path"] = data
    if trust_remote_code:
        overrides["teacher.trust_remote_code"] = True
    overrides |= dict(_assignment(text) for text in set_ or [])
    parsed = Recipe.load(recipe, overrides)
    target = output or Path("runs") / Path(recipe).stem

    from rich.console import Console

    from hf_compress.measure.table import report_table
    from hf_compress.pipeline import compress

    console = Console()
    result = compress(parsed, target, overwrite, log=lambda line: console.print(line, markup=False, highlight=False))
    console.print(report_table(result.report))
    console.print(f"model, recipe and report: {result.folder}", markup=False, highlight=False)


@app.command(epilog="[bold]Example[/bold]\n\n  hf-compress evaluate runs/quickstart --data digits")
def evaluate(
    folder: Annotated[str, typer.Argument(help="Run folder, Hub id or folder in Hub form.")],
    data: Annotated[str, typer.Option(help="Hub data set, folder of images or parquet, or digits.")],
    split: Annotated[str, typer.Option(help="Split to evaluate: train, validation or test.")] = "test",
    seed: Annotated[int, typer.Option(help="Seed of the division into splits.")] = 0,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Measure accuracy, ROC AUC and cost of a model on your data; prints JSON."""
    from hf_compress.recipe import DataSection

    if split not in ("train", "validation", "test"):
        raise UsageError(f"--split cannot be '{split}': choose train, validation or test")

    from hf_compress.evaluation import evaluate_folder

    typer.echo(json.dumps(evaluate_folder(folder, DataSection(path=data), split, seed, trust_remote_code), indent=2))


@app.command()
def students() -> None:
    """List the architectures that can be built by name, with their parameters at width 1 and 0.5."""
    from rich.console import Console
    from rich.table import Table

    from hf_compress.measure.cost import count_parameters
    from hf_compress.students import STUDENTS, build_registered

    table = Table("name", "architecture", "parameters, width 1", "width 0.5")
    labels = [str(label) for label in range(10)]
    for name in STUDENTS:
        sizes = [count_parameters(build_registered(name, labels, width=width).model) for width in (1.0, 0.5)]
        table.add_row(name, STUDENTS.get(name).description, *(f"{size / 1e6:.2f} M" for size in sizes))
    Console().print(table)


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from hf_compress.recipe import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))


def _assignment(text: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--set needs KEY=VALUE, not '{text}'")
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError:
        raise UsageError(f"--set {key}: '{value}' is not a YAML value") from None


def main() -> None:
    """Run the command line; every expected failure is one sentence and an exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        app()
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("\ninterrupted: no run folder was written; finished steps are in <output>.partial", file=sys.stderr)
        sys.exit(130)
