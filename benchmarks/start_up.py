"""Start-up: `hf-compress --help` and `import hf_compress` against `import torch`, each in new processes, in turn.

python benchmarks/start_up.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

REPEATS = 15
COMMANDS = {
    "python -c 'import torch'": ["-c", "import torch"],
    "hf-compress --help": ["-m", "hf_compress", "--help"],
    "python -c 'import hf_compress'": ["-c", "import hf_compress"],
}


def seconds(arguments: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begun


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(1 + REPEATS):
        for name, arguments in COMMANDS.items():
            taken = seconds(arguments)
            if turn:  # the first turn fills the page cache
                times[name].append(taken)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    torch = medians["python -c 'import torch'"]
    print("| start-up | median | of `import torch` |")
    print("|---|---|---|")
    for name, median in medians.items():
        print(f"| `{name}` | {1000 * median:.0f} ms | {median / torch:.2f} |")


if __name__ == "__main__":
    main()
