"""The command line `hf-compress`: one module a group of commands, none of which imports torch at its top."""

from __future__ import annotations

import logging
import sys

import typer

from hf_compress.cli import evaluate, export, inspect, listing, run, sensitivity
from hf_compress.errors import CompressError

app = typer.Typer(
    help="Prune and distil Hugging Face vision models into really smaller checkpoints.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for commands in (run, evaluate, export, inspect, sensitivity, listing):
    commands.add_to(app)


def main() -> None:
    """Run the command line; every expected failure is one sentence and an exit code."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    try:
        app()
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
