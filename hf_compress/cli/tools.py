"""`hf-compress evaluate`, `inspect`, `sensitivity` and `export`: what is done with one model."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from hf_compress.cli.options import DATA_HELP, Json, TrustRemoteCode, examples
from hf_compress.cli.output import show, show_json
from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import missing_folder
from hf_compress.sections.base import validate
from hf_compress.sections.deploy import DeploySection
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.tools.own_data import data_section


def _there(name: str) -> str:
    if missing_folder(name):
        raise UsageError(f"there is no model folder '{name}'")
    return name


Model = Annotated[str, typer.Argument(help="Run folder, folder in Hub form, or Hub id.", callback=_there)]
Data = Annotated[str | None, typer.Option(help=f"{DATA_HELP} A run folder's own data when not given.")]


@examples(
    "hf-compress evaluate runs/quickstart", "hf-compress evaluate microsoft/resnet-18 --data ./photos --split test"
)
def evaluate(
    folder: Model,
    data: Data = None,
    split: Annotated[
        Literal["train", "validation", "test"] | None,
        typer.Option(help="Images to evaluate; the test split, or all images where there is none, when not given."),
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    json_: Json = False,
) -> None:
    """Measure accuracy, ROC AUC and cost of a model on your images.

    The images of a run folder's own recipe are divided as in that run: its test images were never trained on; with
    --split, other images are divided in the same way. Of a run with `task: features`, the k-NN accuracy is measured.
    """
    data_section(folder, data)  # what is wrong with it is said before torch is imported
    from hf_compress.report.table import evaluation_table
    from hf_compress.tools.evaluation import evaluate_folder

    found = evaluate_folder(folder, data, split, trust_remote_code)
    if json_:
        show_json(found)
    else:
        images = found["split"]
        show(f"{folder} on {images['images']:,} images: {images['from']}", evaluation_table(found))


@examples("hf-compress inspect runs/quickstart", "hf-compress inspect microsoft/resnet-18 --json")
def inspect(
    folder: Model,
    trust_remote_code: TrustRemoteCode = False,
    json_: Json = False,
) -> None:
    """Show the layers of a model: shapes before and after pruning, sparsity, parameters, MACs and share of time."""
    from hf_compress.tools import inspection

    rows = inspection.inspect(folder, trust_remote_code)
    if json_:
        show_json(rows)
    else:
        show(inspection.layer_table(rows))


@examples(
    "hf-compress sensitivity runs/quickstart --output runs/sensitivity",
    "hf-compress sensitivity microsoft/resnet-18 --data ./photos --ratio 0.3 --ratio 0.6 --output sensitivity",
    "hf-compress run my-recipe.yaml --set steps.prune.sensitivity=sensitivity/sensitivity.csv",
)
def sensitivity(
    folder: Model,
    output: Annotated[Path, typer.Option(help="Folder for sensitivity.csv and sensitivity.png.")],
    data: Data = None,
    granularity: Annotated[Literal["channel", "weight"], typer.Option(help="What is pruned.")] = "channel",
    ratio: Annotated[list[float] | None, typer.Option(help="Fraction to remove; repeatable.")] = None,
    importance: Annotated[str, typer.Option(help="Criterion that ranks channels or weights.")] = "l1",
    repair: Annotated[
        Literal["least_squares", "batch_norm", "none"], typer.Option(help="What is done before it is measured.")
    ] = "least_squares",
    trust_remote_code: TrustRemoteCode = False,
    json_: Json = False,
) -> None:
    """Measure how much accuracy each group of channels, or each weight, costs when a part of it is removed.

    Channels that must go together go together. Accuracy is that of validation images, after the repair and without
    training in between; of a run with another task, it is the metric that decides there. With least_squares what reads
    the channels makes up for them as well as it can, and what is left of a weight for the rest.
    """
    validate(PruneSection, {"granularity": granularity, "importance": importance}, "sensitivity")
    data_section(folder, data)
    from hf_compress.tools import sensitivity as tool

    options = {"granularity": granularity, "ratios": ratio or tool.RATIOS, "importance": importance, "repair": repair}
    measured = tool.sensitivity(folder, output, data=data, trust_remote_code=trust_remote_code, **options)
    if json_:
        show_json([asdict(m) | {"metric": m.metric.name} for m in measured])
        return
    for m in sorted(measured, key=lambda m: -m.drop)[:3]:
        show(f"{m.name}: without {m.ratio:.0%} of {m.size} {m.metric.words} is {m.value:.4f} ({m.change:+.4f})")
    show(f"{len(measured)} measurements: {output / 'sensitivity.csv'}, {output / 'sensitivity.png'}")


@examples(
    "hf-compress export runs/quickstart --to onnx",
    "hf-compress export runs/quickstart --to onnx --to executorch --int8",
    "hf-compress export microsoft/resnet-18 --to openvino --data ./photos --output exported",
)
def export(
    folder: Model,
    to: Annotated[list[str], typer.Option(help="onnx, openvino, executorch, litert, ncnn, coreml, pt2; repeatable.")],
    int8: Annotated[bool, typer.Option("--int8", help="Write an int8 version, too, calibrated with images.")] = False,
    data: Data = None,
    output: Annotated[Path | None, typer.Option(help="Where to write; `deploy` in FOLDER when not given.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    json_: Json = False,
) -> None:
    """Write a model for other runtimes, check each file against PyTorch on test images, and time both in turn.

    Calibration for int8 takes training images. Labels and preprocessing travel with each file.
    """
    for name in to:
        validate(DeploySection, {"to": name})
    data_section(folder, data)
    from hf_compress.report.table import deployed_table
    from hf_compress.tools import export as tool

    rows = tool.export(folder, to, int8=int8, data=data, output=output, trust_remote_code=trust_remote_code)
    if json_:
        show_json(rows)
    elif rows:
        show(deployed_table(rows))
