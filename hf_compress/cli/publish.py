"""`hf-compress publish`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_compress.cli.options import TrustRemoteCode, examples

EXAMPLES = examples(
    "hf-compress publish runs/small --to user/name --dry-run",
    "hf-compress publish runs/small --to user/name --private",
    "hf-compress publish runs/small --to user/name --include notes.md --include 'scripts/**'",
    "hf-compress publish runs/small --to other/model --create-pr --message 'A smaller model'",
)


def add_to(app: typer.Typer) -> None:
    app.command(epilog=EXAMPLES)(publish)


def publish(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    to: Annotated[str, typer.Option(help="Repository, user/name; made when missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to commit to; made when missing.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    message: Annotated[str | None, typer.Option(help="Commit message.")] = None,
    license_: Annotated[
        str | None, typer.Option("--license", help="Licence identifier; that of the teacher when not given.")
    ] = None,
    template: Annotated[str | None, typer.Option(help="Your own Jinja template of the card.")] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(help="Send files that the run did not write, too: a pattern in FOLDER; repeatable."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the files and the card.")] = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Publish a run folder on the Hub: checked first, then sent as one commit.

    Sent is what the run and later commands wrote there; the rest is named, and stays. The access token is that of
    `hf auth login` or HF_TOKEN. What is there already is not sent again.
    """
    from hf_compress.hub import publish as hub

    options = {"private": private, "revision": revision, "create_pr": create_pr, "message": message}
    options |= {"license": license_, "template": template}
    given = {key: value for key, value in options.items() if value is not None}
    given |= {"include": include or [], "trust_remote_code": trust_remote_code}
    if dry_run:
        _show(hub.plan_push(folder, to, **given), to)
    else:
        typer.echo(hub.publish(folder, to, **given))


def _show(plan, to: str) -> None:
    from hf_compress.hub.publish import not_sent

    typer.echo(plan.card)
    width = max(map(len, plan.files))
    for path, size in plan.files.items():
        typer.echo(f"{path:{width}} {size:>13,} bytes")
    for line in not_sent(plan.left):
        typer.echo(line)
    typer.echo(f"{len(plan.files)} files, {sum(plan.files.values()):,} bytes would go to {to}")
