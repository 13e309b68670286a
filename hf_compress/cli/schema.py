"""`hf-compress schema`."""

from __future__ import annotations

import json

import typer


def add_to(app: typer.Typer) -> None:
    app.command()(schema)


def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from hf_compress.recipe import recipe_schema

    typer.echo(json.dumps(recipe_schema(), indent=2))
