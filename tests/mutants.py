"""Wrong versions of the package, each of which its nearest tests must notice: `python -m tests.mutants`.

The table `mutants.yaml` has a row for each: a name, the file, its `old` text (which stands there exactly once), the
`new` one, and the tests. A row is tried on a copy of the project, in a process that is forked off this one, where the
heavy imports are done already.

Tests notice when they fail. A row fails when they pass (the wrong version survives), when they cannot be collected,
when they do not end, or when its old text is not there any more: it must follow the code.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import importlib
import os
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests import conftest  # noqa: F401  (keeps what is imported here off the network)

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".yaml")
LEFT_OUT = shutil.ignore_patterns(".*", "reports", "results")
HEAVY = (
    "datasets",
    "matplotlib.figure",
    "sklearn.metrics",
    "timm",
    "torchvision.transforms.v2",
    "transformers.trainer",
)
LONGEST = 600  # seconds
IMPORTED = ".imported"
CODES = {0: "survived", 1: "noticed", -signal.SIGALRM: f"does not end within {LONGEST} s"}


@dataclass(frozen=True)
class Mutant:
    """A row of the table."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def stale(self) -> str:
        """Return why the row does not fit the code; nothing where it does."""
        text = (ROOT / self.file).read_text(encoding="utf-8") if (ROOT / self.file).is_file() else ""
        if not text:
            return f"there is no {self.file}"
        if count := text.count(self.old) - 1:
            near = difflib.get_close_matches(self.old, text.splitlines(), n=1, cutoff=0.4)
            found = f"stands {count + 1} times in" if count > 0 else "is not in"
            return f"{self.old!r} {found} {self.file}" + (f"; the nearest line is {near[0]!r}" if near else "")
        try:
            compile(text.replace(self.old, self.new), self.file, "exec")
        except SyntaxError as error:
            return f"{self.new!r} is no Python there: {error}"
        return ""

    def apply(self, root: Path) -> None:
        file = root / self.file
        file.write_text(file.read_text(encoding="utf-8").replace(self.old, self.new), encoding="utf-8")


def read_table() -> list[Mutant]:
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return [Mutant(**row | {"tests": tuple(row["tests"])}) for row in rows]


def of_part(mutant: Mutant, part: str) -> bool:
    """Tell whether a row belongs to a part of the table, as `2/3`: rows of one test file are in the same part."""
    chosen, parts = map(int, part.split("/"))
    return zlib.crc32(mutant.tests[0].partition("::")[0].encode()) % parts == chosen % parts


def warm_up(names: Iterable[str]) -> None:
    """Import what tests need and no wrong version touches, so that processes forked off this one have it."""
    for name in names:
        with contextlib.suppress(Exception):  # what one test imports may want the state that it made
            importlib.import_module(name)
    assert not any(name.partition(".")[0] == "hf_compress" for name in sys.modules)


def run_tests(root: Path, tests: tuple[str, ...], *options: str) -> int:
    """Run tests of the copy in `root` and return pytest's exit code; note beside it what they imported."""
    import pytest

    os.chdir(root)
    sys.path[:] = [str(root), *(place for place in sys.path if Path(place or ".").resolve() != ROOT)]
    sys.modules.pop("tests", None), sys.modules.pop("tests.conftest", None)
    os.environ["PYTHONPATH"] = str(root)  # of the processes that tests start
    code = pytest.main([*tests, *options, "-m", "", "--disable-warnings", "-p", "no:cacheprovider", "-p", "no:xdist"])
    foreign = [
        name for name, module in sys.modules.items() if "site-packages" in (getattr(module, "__file__", 0) or "")
    ]
    root.with_name(f"{os.getpid()}{IMPORTED}").write_text("\n".join(foreign))
    return code


def forked(work: Callable[[], int], log: Path) -> int:
    """Do `work` in a child that writes to `log`, and return its id; what it returns is its exit code."""
    child = os.fork()
    if child:
        return child
    code = 4
    try:
        signal.alarm(LONGEST)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        code = int(work())
    finally:
        sys.stdout.flush()
        os._exit(code)


def in_turn(works: dict[str, Callable[[], int]], logs: Path, jobs: int) -> Iterator[tuple[str, int, float, str]]:
    """Do work in processes, `jobs` at a time; yield name, exit code, seconds and output of each as it ends."""
    waiting, running = list(works), {}
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            log = logs / f"{len(works) - len(waiting)}.log"
            running[forked(works[name], log)] = name, log, time.monotonic()
        child, status = os.wait()
        name, log, started = running.pop(child)
        yield name, os.waitstatus_to_exitcode(status), time.monotonic() - started, log.read_text(errors="replace")


def check_unchanged(mutants: list[Mutant], copy: Path, jobs: int) -> list[str]:
    """Run all the tests on the unchanged code; return the output of what does not pass."""
    tests: dict[str, list[str]] = {}
    for test in sorted({test for mutant in mutants for test in mutant.tests}):
        tests.setdefault(test.partition("::")[0], []).append(test)
    works = {file: lambda chosen=tuple(chosen): run_tests(copy, chosen) for file, chosen in tests.items()}
    failed = []
    for number, (file, code, seconds, output) in enumerate(in_turn(works, copy.parent, jobs), start=1):
        print(f"{number:3}/{len(works)}  {'failed' if code else 'passed'}  {seconds:5.1f} s  {file}", flush=True)
        failed += [output] if code else []
    return failed


def check(mutants: list[Mutant], copy: Path, jobs: int) -> dict[str, str]:
    """Try each wrong version; return the verdict on each that is not noticed, with the output of its tests."""

    def attempt(mutant: Mutant, root: Path) -> int:
        shutil.copytree(copy, root)
        mutant.apply(root)
        return run_tests(root, mutant.tests, "-x")

    works = {
        mutant.name: lambda mutant=mutant, number=number: attempt(mutant, copy.parent / f"mutant-{number}")
        for number, mutant in enumerate(mutants)
    }
    missed = {}
    for number, (name, code, seconds, output) in enumerate(in_turn(works, copy.parent, jobs), start=1):
        verdict = CODES.get(code, f"no test ran (exit code {code})")
        print(f"{number:3}/{len(works)}  {verdict:8}  {seconds:5.1f} s  {name}", flush=True)
        if code != 1:
            missed[name] = f"{verdict}\n{output}"
    return missed


def main() -> int:
    """Try the wrong versions; return 0 where all are noticed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="rows whose name has this text")
    parser.add_argument("--part", default="1/1", help="a part of the table, as 2/3; a part's rows share test files")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="how many at a time")
    arguments = parser.parse_args()
    table = read_table()
    if stale := {mutant.name: why for mutant in table if (why := mutant.stale())}:
        print(
            "rows that do not fit the code any more:", *(f"  {name}: {why}" for name, why in stale.items()), sep="\n"
        )
        return 2
    mutants = [row for row in table if (arguments.only or "") in row.name and of_part(row, arguments.part)]
    warm_up(HEAVY)
    with tempfile.TemporaryDirectory(prefix="hf-compress-mutants-") as place:
        copy = Path(place) / "unchanged"
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        if failed := check_unchanged(mutants, copy, arguments.jobs):
            print("the tests do not pass on the unchanged code:", *failed, sep="\n")
            return 2
        warm_up({name: None for file in copy.parent.glob(f"*{IMPORTED}") for name in file.read_text().split()})
        missed = check(mutants, copy, arguments.jobs)
    print(f"\n{len(mutants) - len(missed)} of {len(mutants)} wrong versions are noticed")
    for name, output in missed.items():
        print(f"\nnot noticed: {name}: {output if arguments.only else output.partition(chr(10))[0]}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
