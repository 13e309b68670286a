"""Text from outside as plain text: nothing in a name can become Markdown, HTML or YAML of ours."""

import re
import unicodedata
from typing import Any

from markupsafe import Markup

ZERO_WIDTH_JOINER = "\u200d"  # holds an emoji of several people together
SPECIAL = re.compile(
    r"""[&<>"`*{}\[\]#|~!$@\\]
    | (?<![^\W_])_ | _(?![^\W_])  # within a word it emphasises nothing
    | :(?=//) | (?<=www)\.
    """,
    re.IGNORECASE | re.VERBOSE,
)


def one_line(text: Any) -> str:
    """Return the text on one line, without control characters and marks that turn the direction of writing."""
    kept = (
        c for c in str(text) if c.isspace() or c == ZERO_WIDTH_JOINER or not unicodedata.category(c).startswith("C")
    )
    return " ".join("".join(kept).split())


def escaped(value: Any) -> Any:
    """Return what Jinja writes for a value: text with every special character as an HTML entity.

    Entities are text in Markdown, also in a table and in HTML, there in attributes between double quotes. What is
    marked as safe already, and what is no text, stays as it is.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return Markup(SPECIAL.sub(lambda match: f"&#{ord(match.group())};", one_line(value)))


def fenced(text: str, language: str) -> Markup:
    """Return a code block; its fence is longer than any row of backticks in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return Markup(f"{fence}{language}\n{text.rstrip()}\n{fence}")
