"""`hf-compress card`, `cards` and `publish`: what becomes of run folders."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hf_compress.cli.options import Json, TrustRemoteCode, examples
from hf_compress.cli.output import show, show_json
from hf_compress.cli.sections import Group, options_from
from hf_compress.ground.errors import UsageError
from hf_compress.sections.publish import PublishSection

if TYPE_CHECKING:
    from hf_compress.hub.publish import PushPlan

OPTIONS = ("private", "revision", "create_pr", "message", "license", "template")


@examples("hf-compress card runs/quickstart", "hf-compress card runs/small --template mine.md")
def card(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    template: Annotated[Path | None, typer.Option(help="Jinja template instead of the package's own.")] = None,
) -> None:
    """Write README.md and the figures of a run again, from its report and recipe alone."""
    from hf_compress.report.card import CARD, write_card

    write_card(folder, template)
    show(f"card: {folder / CARD}")


@examples("hf-compress cards runs", "hf-compress cards my-name --output comparison.html")
def cards(
    source: Annotated[str, typer.Argument(help="Folder that holds run folders, or a user of the Hub.")],
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("cards.html"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace any other file in --output, too.")] = False,
    json_: Json = False,
) -> None:
    """Compare runs on one page that needs no network: a sortable table, and accuracy against size and latency."""
    from hf_compress.report.gallery import write_gallery

    number = write_gallery(source, output, overwrite)
    if json_:
        show_json({"page": str(output), "runs": number})
    else:
        show(f"{number} run{'s' * (number != 1)}: {output}")


@examples(
    "hf-compress publish runs/small --to user/name --dry-run",
    "hf-compress publish runs/small --to user/name --private",
    "hf-compress publish runs/small --to user/name --include notes.md --include 'scripts/**'",
    "hf-compress publish runs/small --to other/model --create-pr --message 'A smaller model'",
    "hf-compress publish runs/small --to user/name-int8 --file deploy/model.int8.onnx --base-model user/name",
)
@options_from(Group("Publishing", "publish", PublishSection, only=OPTIONS))
def publish(
    folder: Annotated[Path, typer.Argument(help="Run folder.")],
    to: Annotated[str, typer.Option(help="Repository, user/name; made when missing.")],
    values: dict[str, Any],
    include: Annotated[
        list[str] | None,
        typer.Option(help="Send files that the run did not write, too: a pattern in FOLDER; repeatable."),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(help="Publish this int8 file alone, as a repository of its own: deploy/model.int8.onnx."),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="With --file: the repository of the model that was quantized, user/name.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show the files and the card.")] = False,
    trust_remote_code: TrustRemoteCode = False,
    json_: Json = False,
) -> None:
    """Publish a run folder on the Hub: checked first, then sent as one commit.

    Sent is what the run and later commands wrote there; the rest is named, and stays. The access token is that of
    `hf auth login` or HF_TOKEN. What is there already is not sent again.
    """
    from hf_compress.hub import publish as hub

    options = {key.removeprefix("publish."): value for key, value in values.items()}
    if (file is None) != (base_model is None):
        raise UsageError("--file and --base-model go together: an int8 file, and the model that it was made of")
    if file is not None:
        if include:
            raise UsageError("--include is for a whole run folder: leave it out with --file")
        result = (hub.plan_file if dry_run else hub.publish_file)(folder, file, to, base_model, **options)
    else:
        options |= {"include": include or [], "trust_remote_code": trust_remote_code}
        result = (hub.plan_push if dry_run else hub.publish)(folder, to, **options)
    if json_:
        show_json(asdict(result))
    else:
        show(*(_planned(result, to) if dry_run else [str(result)]))


def _planned(plan: PushPlan, to: str) -> list[str]:
    """Return the lines that show what would be published."""
    from hf_compress.hub.publish import not_sent

    width = max(map(len, plan.files))
    files = [f"{path:{width}} {size:>13,} bytes" for path, size in plan.files.items()]
    total = f"{len(plan.files)} files, {sum(plan.files.values()):,} bytes would go to {to}"
    return [plan.card, *files, *not_sent(plan.left), total]
