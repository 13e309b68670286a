"""The templates of pages: the package's own, or one that anyone may have written.

That of a stranger is rendered in Jinja's sandbox, and in a process of its own with bounds: this module, started anew.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import read_text, user_path
from hf_compress.ground.shipped import shipped_file
from hf_compress.report.markdown import escaped

SECONDS, MOST_SECONDS, MOST_BYTES, MOST_OF_A_PAGE = 3, 30, 2**30, 2_000_000
PAGES = ImmutableSandboxedEnvironment(
    autoescape=True,
    finalize=escaped,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
    optimized=False,  # or constants are computed when a template is only looked at
)


def page_template(path: Path | None, shipped: str = "template.md") -> Callable[..., str]:
    """Return what makes a page of its variables: the template `shipped` with the package, or one's own.

    What a template writes is escaped. A call raises UsageError where one's own fails, or takes too long.

    Raises:
        UsageError: it cannot be read, or is wrong.
    """
    file = shipped_file("model_cards", shipped) if path is None else user_path(path)
    try:
        source = read_text(file, MOST_OF_A_PAGE)
        PAGES.parse(source)
    except TemplateSyntaxError as error:
        raise UsageError(f"the template '{file}' is wrong in line {error.lineno}: {error.message}") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"the template '{file}' cannot be read: {reason}") from None
    return PAGES.from_string(source).render if path is None else partial(_render, file, source)


def _render(file: Path, source: str, /, **context: Any) -> str:
    try:
        return render_apart(source, context)
    except ValueError as error:
        raise UsageError(f"the template '{file}' cannot be rendered: {error}") from None


def render_apart(source: str, context: dict[str, Any]) -> str:
    """Return what a template makes of its variables, in a process that knows nothing of this one's environment.

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
        page = PAGES.from_string(source).render(context)
    except MemoryError:
        sys.exit(f"it takes more than {MOST_BYTES // 2**20} MiB of memory")
    except Exception as error:  # a template can raise anything
        sys.exit(f"{error or type(error).__name__}".replace("\n", " "))
    if len(page) > MOST_OF_A_PAGE:
        sys.exit(f"it writes more than {MOST_OF_A_PAGE:,} characters")
    sys.stdout.buffer.write(page.encode())


if __name__ == "__main__":
    _main()
