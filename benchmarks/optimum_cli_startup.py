"""What `optimum-cli compress` costs the other commands of `optimum-cli`: start-up with and without our register file.

    python benchmarks/optimum_cli_startup.py --repeats 40

Both variants run in turn, in new processes that differ only in whether the folder with our register file is on the
path. Prints the median of each, their ratio, and the median of the differences between neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
START = """
import sys
sys.path += sys.argv.pop(1).split(";")
from optimum.commands.optimum_cli import main
main()
"""


def start(paths: list[str], command: str) -> tuple[float, str]:
    """Return the seconds that `optimum-cli COMMAND` takes, and what it prints.

    `-S` keeps an installed copy of this package out, whose `.pth` file would put it on every path.
    """
    begun = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", START, ";".join(paths), command], capture_output=True, text=True, check=True
    )
    return time.perf_counter() - begun, result.stdout


def compare(command: str, repeats: int) -> None:
    """Print the line of the table for one command."""
    packages = sysconfig.get_path("purelib")
    without, with_ours = [], []
    for _ in range(repeats):
        without.append(start([packages], command)[0])
        with_ours.append(start([packages, str(ROOT)], command)[0])
    before, after = statistics.median(without), statistics.median(with_ours)
    pairs = [second - first for first, second in zip(without, with_ours, strict=True)]
    print(
        f"optimum-cli {command:8} without {before * 1e3:7.1f} ms   with {after * 1e3:7.1f} ms   "
        f"ratio {after / before:.3f}   difference {statistics.median(pairs) * 1e3:+.1f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40)
    repeats = parser.parse_args().repeats
    packages = sysconfig.get_path("purelib")
    assert "compress" not in start([packages], "--help")[1], "an installed hf-compress is in the way"
    assert "compress" in start([packages, str(ROOT)], "--help")[1], "the register file is not found"
    compare("--help", repeats)
    compare("env", max(3, repeats // 4))


if __name__ == "__main__":
    main()
