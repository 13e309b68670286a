"""`hf-compress export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_compress.cli.options import DATA_HELP, TrustRemoteCode, examples


@examples(
    "hf-compress export runs/quickstart --to onnx",
    "hf-compress export runs/quickstart --to onnx --to executorch --int8",
    "hf-compress export microsoft/resnet-18 --to openvino --data ./photos --output exported",
)
def export(
    folder: Annotated[str, typer.Argument(help="Run folder, folder in Hub form, or Hub id.")],
    to: Annotated[list[str], typer.Option(help="onnx, openvino, executorch, litert or pt2; repeatable.")],
    int8: Annotated[bool, typer.Option("--int8", help="Write an int8 version, too, calibrated with images.")] = False,
    data: Annotated[str | None, typer.Option(help=f"{DATA_HELP} A run folder's own data when not given.")] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write; `deploy` in FOLDER when not given.")] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Write a model for other runtimes, check each file against PyTorch on test images, and time both in turn.

    Calibration for int8 takes training images. Labels and preprocessing travel with each file.
    """
    from rich.console import Console

    from hf_compress.report.table import deployed_table
    from hf_compress.tools.export import export as export_folder

    rows = export_folder(folder, to, int8=int8, data=data, output=output, trust_remote_code=trust_remote_code)
    Console().print(deployed_table(rows))
