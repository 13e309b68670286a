"""In what the recipes of several runs differ."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hf_compress.ground.bounded_yaml import MOST_CHARACTERS, read_yaml
from hf_compress.ground.files import read_text
from hf_compress.report.markdown import one_line
from hf_compress.report.run import RECIPE

LONGEST = 24
BESIDE = ("task", "data.path", "measure.", "publish.")  # the same for all that compares, or said elsewhere
Settings = dict[str, str]


def settings(folder: Path) -> Settings:
    """Return the values of a run's recipe by dotted key; of a step the key begins with its name, as `prune.amount`.

    Without a recipe that can be read there are none.
    """
    try:
        content = read_yaml(read_text(folder / RECIPE, MOST_CHARACTERS))
    except (OSError, ValueError):
        return {}
    return dict(_flat(content, "")) if isinstance(content, dict) else {}


def differing(recipes: Sequence[Settings]) -> list[str]:
    """Return the keys that have different values in the recipes that have them, in the order of the recipes."""
    found = dict.fromkeys(key for recipe in recipes for key in recipe if not key.startswith(BESIDE))
    return [key for key in found if len({recipe[key] for recipe in recipes if key in recipe}) > 1]


def _flat(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flat(inner, f"{key}.{name}" if key else str(name))
    elif key == "steps" and isinstance(value, list):
        for step in value:
            if isinstance(step, dict):
                yield from _flat(step, "")
    else:
        text = one_line(", ".join(map(str, value)) if isinstance(value, list) else "" if value is None else value)
        yield key, text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
