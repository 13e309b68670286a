"""`python -m hf_compress.device`: predictions and benchmarks where there is no PyTorch."""

import argparse
import json
import sys
from pathlib import Path

from hf_compress.device.model import DeviceModel
from hf_compress.device.tables import benchmark_table, predictions_table
from hf_compress.device.timing import Others
from hf_compress.device.using import benchmark, pictures_in, predictions
from hf_compress.ground.errors import CompressError


def main() -> None:
    parser = argparse.ArgumentParser("python -m hf_compress.device", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("predict", help="say what is on pictures")
    asking.add_argument("file", help="a deployed file")
    asking.add_argument("images", nargs="+", help="pictures, or folders of them")
    asking.add_argument("--top", type=int, default=1, help="classes a picture, of a classifier")
    asking.add_argument(
        "--maps", type=Path, help="folder for PNGs: the classes or the depths of each picture's pixels"
    )
    timing = commands.add_parser("benchmark", help="compare deployed files on pictures")
    timing.add_argument("files", nargs="+", help="deployed files")
    timing.add_argument("--images", nargs="+", required=True, help="pictures, or folders of them")
    timing.add_argument("--repeats", type=int, default=50, help="timed passes a file")
    for command in (asking, timing):
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args()
    try:
        print(_done(given))
    except CompressError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def _done(given: argparse.Namespace) -> str:
    if given.command == "predict":
        model, pictures = DeviceModel.open(given.file, given.threads), pictures_in(given.images)
        rows = predictions(model, pictures, given.top, given.maps)
        return json.dumps(rows, indent=2) if given.json else predictions_table(rows)
    models, others = [DeviceModel.open(file, given.threads) for file in given.files], Others()
    rows = benchmark(models, pictures_in(given.images), given.repeats)
    print(*(f"warning: {sentence}" for sentence in others.warning), sep="\n", end="", file=sys.stderr)
    return json.dumps(rows, indent=2) if given.json else benchmark_table(rows)


if __name__ == "__main__":
    main()
