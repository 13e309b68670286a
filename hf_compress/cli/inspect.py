"""`hf-compress inspect`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from hf_compress.cli.options import TrustRemoteCode, examples


@examples("hf-compress inspect runs/quickstart", "hf-compress inspect microsoft/resnet-18 --json")
def inspect(
    folder: Annotated[str, typer.Argument(help="Run folder, folder in Hub form, or Hub id.")],
    json_: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show the layers of a model: shapes before and after pruning, sparsity, parameters, MACs and share of time."""
    from rich.console import Console

    from hf_compress.tools.inspection import inspect as inspect_model
    from hf_compress.tools.inspection import layer_table

    rows = inspect_model(folder, trust_remote_code)
    if json_:
        typer.echo(json.dumps(rows, indent=2))
    else:
        Console().print(layer_table(rows))
