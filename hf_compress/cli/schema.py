"""`hf-compress schema`."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def schema(
    study: Annotated[bool, typer.Option("--study", help="Of studies, which have several `runs`.")] = False,
) -> None:
    """Print the JSON schema of recipes, for editors."""
    from hf_compress.run.recipe import recipe_schema
    from hf_compress.study.config import study_schema

    typer.echo(json.dumps(study_schema() if study else recipe_schema(), indent=2))
