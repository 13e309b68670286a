"""Renders a template that anyone may have written: in Jinja's sandbox, and in a process of its own with bounds."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from typing import Any

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hf_compress.report.markdown import escaped

SECONDS, MOST_SECONDS, MOST_BYTES, MOST_OF_A_PAGE = 3, 30, 2**30, 2_000_000


def page_environment() -> ImmutableSandboxedEnvironment:
    """Return the environment of every page: what a template writes is escaped, and it reaches no internals."""
    return ImmutableSandboxedEnvironment(
        autoescape=True,
        finalize=escaped,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        optimized=False,  # or constants are computed when a template is only looked at
    )


def render_apart(source: str, context: dict[str, Any]) -> str:
    """Return what a template makes of its variables.

    Raises:
        ValueError: it fails, or takes too long or too much memory; the message says what.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name],
            input=pickle.dumps((source, context)),
            env={"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
            capture_output=True,
            timeout=MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it takes more than {MOST_SECONDS} s") from None
    if done.returncode < 0:
        raise ValueError(f"it takes more than {SECONDS} s of computing, or {MOST_BYTES // 2**20} MiB of memory")
    if done.returncode:
        raise ValueError((done.stderr.decode().splitlines() or ["its process failed"])[-1])
    return done.stdout.decode()


def _main() -> None:
    """Read template and variables from the parent process, and write the page."""
    source, context = pickle.load(sys.stdin.buffer)
    try:
        import resource
    except ModuleNotFoundError:  # not on Windows, where the parent's time limit is left
        pass
    else:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    try:
        page = page_environment().from_string(source).render(context)
    except MemoryError:
        sys.exit(f"it takes more than {MOST_BYTES // 2**20} MiB of memory")
    except Exception as error:  # a template can raise anything
        sys.exit(f"{error or type(error).__name__}".replace("\n", " "))
    if len(page) > MOST_OF_A_PAGE:
        sys.exit(f"it writes more than {MOST_OF_A_PAGE:,} characters")
    sys.stdout.buffer.write(page.encode())


if __name__ == "__main__":
    _main()
