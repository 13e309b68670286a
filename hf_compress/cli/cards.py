"""`hf-compress card` and `cards`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_compress.cli.options import examples


@examples("hf-compress card runs/quickstart", "hf-compress card runs/small --template mine.md")
def card(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    template: Annotated[Path | None, typer.Option(help="Jinja template instead of the package's own.")] = None,
) -> None:
    """Write README.md and the figures of a run again, from its report and recipe alone."""
    from hf_compress.report.card import CARD, write_card

    write_card(folder, template)
    typer.echo(f"card: {folder / CARD}")


@examples("hf-compress cards runs", "hf-compress cards my-name --output comparison.html")
def cards(
    source: Annotated[str, typer.Argument(help="Folder that holds run folders, or a user of the Hub.")],
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("cards.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace any other file in --output, too.")] = False,
) -> None:
    """Compare runs on one page that needs no network: a sortable table, and accuracy against size and latency."""
    from hf_compress.report.gallery import write_gallery

    number = write_gallery(source, output, overwrite)
    typer.echo(f"{number} runs: {output}")
