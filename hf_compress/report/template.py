"""The templates of pages: the package's own, or one that a user names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import read_text, user_path
from hf_compress.ground.shipped import shipped_file
from hf_compress.report.sandbox import MOST_OF_A_PAGE, page_environment, render_apart


@dataclass(frozen=True)
class Template:
    """A template that was read.

    Attributes:
        path: the user's own, None for one of the package.
        source: its text.
    """

    path: Path | None
    source: str

    def render(self, **context: Any) -> str:
        """Return the page.

        Raises:
            UsageError: the template fails, or takes too long.
        """
        if self.path is None:
            return page_environment().from_string(self.source).render(context)
        try:
            return render_apart(self.source, context)
        except ValueError as error:
            raise UsageError(f"the template '{self.path}' cannot be rendered: {error}") from None


def page_template(path: Path | None, shipped: str = "template.md") -> Template:
    """Return the template of a page, `shipped` with the package or one's own; what it writes is escaped.

    Raises:
        UsageError: it cannot be read, or is wrong.
    """
    file = shipped_file("model_cards", shipped) if path is None else user_path(path)
    try:
        source = read_text(file, MOST_OF_A_PAGE)
        page_environment().parse(source)
    except jinja2.TemplateSyntaxError as error:
        raise UsageError(f"the template '{file}' is wrong in line {error.lineno}: {error.message}") from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise UsageError(f"the template '{file}' cannot be read: {reason}") from None
    return Template(path and file, source)
