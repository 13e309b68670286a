"""`hf-compress evaluate`."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from hf_compress.cli.options import DATA_HELP, TrustRemoteCode, examples


@examples(
    "hf-compress evaluate runs/quickstart", "hf-compress evaluate microsoft/resnet-18 --data ./photos --split test"
)
def evaluate(
    folder: Annotated[str, typer.Argument(help="Run folder, Hub id or folder in Hub form.")],
    data: Annotated[str | None, typer.Option(help=f"{DATA_HELP} A run folder's own data when not given.")] = None,
    split: Annotated[
        Literal["train", "validation", "test"] | None,
        typer.Option(help="Images to evaluate; the test split, or all images where there is none, when not given."),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Measure accuracy, ROC AUC and cost of a model on your images; prints JSON.

    The images of a run folder's own recipe are divided as in that run: its test images were never trained on; with
    --split, other images are divided in the same way. Of a run with `task: features`, the k-NN accuracy is measured.
    """
    from hf_compress.tools.evaluation import evaluate_folder

    typer.echo(json.dumps(evaluate_folder(folder, data, split, trust_remote_code), indent=2))
