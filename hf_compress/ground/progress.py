"""What is seen while work goes on: lines and bars on stderr, on one console, so that neither disturbs the other.

stdout is left to results. There are no bars where nobody looks at a terminal.
"""

import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_T = TypeVar("_T")
LIBRARIES = {"datasets": "DATASETS", "huggingface_hub": "HF_HUB", "transformers": "TRANSFORMERS"}
"""Whose logger has a handler of its own as soon as they are imported, and what their variables begin with."""
CONSOLE = Console(stderr=True)


class Lines(logging.Handler):
    """Writes log records above a bar that is shown, as `print` does."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def say(line: str) -> None:
    """Print a line about the work."""
    CONSOLE.print(line, markup=False, highlight=False, soft_wrap=True)


def silence() -> None:
    """Show nothing but errors from now on, nor let libraries do so that are not imported yet."""
    CONSOLE.quiet = True
    logging.getLogger().setLevel(logging.ERROR)
    os.environ.update({f"{prefix}_VERBOSITY": "error" for prefix in LIBRARIES.values()})


def without_bars_of_libraries() -> None:
    """Let the libraries of the Hub, as long as they are not imported, show no bars where this module shows none."""
    if not _looked_at():
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"


@contextmanager
def unheard() -> Iterator[None]:
    """Show nothing that is printed meanwhile."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


def bar() -> Progress:
    """Return a context manager that shows a bar of steps, which is gone when it is done."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    quiet, of_terminal = not _looked_at(), sys.stdout.isatty()
    return Progress(*columns, console=CONSOLE, transient=True, disable=quiet, redirect_stdout=of_terminal)


def track(items: Iterable[_T], description: str, total: int | None = None) -> Iterator[_T]:
    """Give the items, with a bar that is gone when they are through; `total` where they have no length."""
    with bar() as shown:
        yield from shown.track(items, total, description=description)


def _looked_at() -> bool:
    return not CONSOLE.quiet and (CONSOLE.is_interactive or CONSOLE.is_jupyter)
