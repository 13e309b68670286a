"""`hf-compress predict` and `benchmark`: models where they are used."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from hf_compress.cli.options import Json, TrustRemoteCode, examples
from hf_compress.cli.output import show, show_json
from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import missing_folder

Model = Annotated[str, typer.Argument(help="Deployed file, run folder, or Hub id.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
logger = logging.getLogger(__name__)


@examples(
    "hf-compress predict runs/quickstart photo.jpg",
    "hf-compress predict runs/quickstart/deploy/model.int8.onnx ./photos --top 3 --json",
    "hf-compress predict runs/segmenter ./photos --maps ./maps",
)
def predict(
    model: Model,
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="Classes a picture, of a classifier.")] = 1,
    maps: Annotated[
        Path | None, typer.Option(help="Folder for PNGs: the classes or the depths of each picture's pixels.")
    ] = None,
    threads: Threads = 1,
    json_: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Say what is on pictures, by a deployed file in its runtime, or by a saved model in PyTorch.

    Of a classifier the classes, of a segmenter each class's share of the pixels, of a model for depth the smallest and
    the largest, of a detector the objects.
    `python -m hf_compress.device predict` does the same for files, without PyTorch.
    """
    pictures = _there([model], images)
    from hf_compress.device import using
    from hf_compress.device.tables import predictions_table
    from hf_compress.tools.device_models import device_model

    rows = using.predictions(device_model(model, threads, trust_remote_code), pictures, top, maps)
    show_json(rows) if json_ else show(predictions_table(rows))


@examples(
    "hf-compress benchmark runs/quickstart runs/quickstart/deploy/model.int8.onnx --images ./photos",
    "hf-compress benchmark deploy/model.onnx deploy/model.xml --images ./photos --threads 2 --json",
)
def benchmark(
    models: Annotated[list[str], typer.Argument(help="Deployed files, run folders, or Hub ids.")],
    images: Annotated[list[Path], typer.Option(help="Picture, or folder of them; repeatable.")],
    repeats: Annotated[int, typer.Option(min=1, help="Timed passes a model.")] = 50,
    threads: Threads = 1,
    json_: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Compare models for one task on pictures: time of one picture, in turn, and agreement with the first.

    Agreement is the share of pictures of the same class, of pixels of the same class or depth, or of objects. A
    classifier's accuracy is known
    where each picture lies in a folder that is called like its label. `noise` tells how far apart the medians of five
    rounds lie. `python -m hf_compress.device benchmark` does the same for files, without PyTorch.
    """
    pictures = _there(models, images)
    from hf_compress.device import using
    from hf_compress.device.tables import benchmark_table
    from hf_compress.device.timing import Others
    from hf_compress.tools.device_models import device_model

    opened, others = [device_model(name, threads, trust_remote_code) for name in models], Others()
    rows = using.benchmark(opened, pictures, repeats)
    for sentence in others.warning:
        logger.warning(sentence)
    show_json(rows) if json_ else show(benchmark_table(rows))


def _there(models: list[str], images: list[Path]) -> list[Path]:
    """Return the pictures, after it is known that they and the models are there, before PyTorch is imported."""
    from hf_compress.device.using import pictures_in

    for name in models:
        if missing_folder(name):
            raise UsageError(f"there is no file and no folder '{name}'")
    return pictures_in(images)
