"""The commands and code blocks that README, docs and recipes show."""

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
PROGRAMS = re.compile(r"(?:hf-compress|optimum-cli compress|.*-m hf_compress|.*\"hf-compress(?=.*\"'$)) +(.*)")


def commands(lines):
    """Return the arguments of each command among lines of a shell, without comments and redirections.

    `...` stands for the options of the command above.
    """
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    found = [match[1].removesuffix("\"'") for line in joined.splitlines() if (match := PROGRAMS.match(line.strip()))]
    said = []
    for text in found:
        words = shlex.split(re.sub(r" > \S+", "", text), comments=True)
        place = words.index("...") if "..." in words else None
        said.append(words if place is None else [*words[:place], *said[-1][2:], *words[place + 1 :]])
    return said


def blocks(page, *languages):
    """Yield (line, text) of a page's code blocks in these languages, of all where none is named."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if not languages or match[1] in languages:
            yield text.count("\n", 0, match.start()) + 2, match[2]


def in_headers():
    """Return the commands in the comments at the beginning of recipes."""
    return [command for path in RECIPES for command in commands(_header(path))]


def on_pages():
    """Return the commands in the blocks of README and docs."""
    return [command for page in PAGES for _, block in blocks(page, "bash") for command in commands(block.splitlines())]


def _header(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.lstrip("# ") for line in lines if line.startswith("#")]
