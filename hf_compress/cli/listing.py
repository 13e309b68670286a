"""`hf-compress students` and `schema`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    app.command()(students)
    app.command()(schema)


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


def schema(
    study: Annotated[bool, typer.Option("--study", help="Of studies, which have several `runs`.")] = False,
) -> None:
    """Print the JSON schema of recipes, for editors."""
    from hf_compress.recipe import recipe_schema
    from hf_compress.study.config import study_schema

    typer.echo(json.dumps(study_schema() if study else recipe_schema(), indent=2))
