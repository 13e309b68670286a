"""What a model's config.json declares, before anything of that size is built."""

from __future__ import annotations

import re
from typing import Any

from hf_compress.errors import RunError, shown

MOST = {
    re.compile("num_labels|num_classes"): 1_000_000,
    re.compile(".*(layers|depths?|blocks)"): 10_000,
    re.compile("(?!vocab).*(size|sizes|dims?|channels|heads)"): 100_000,
}


def refuse_huge(name: str, values: Any) -> None:
    """Look for numbers that would take all memory or time.

    Args:
        name: of the model, for the message.
        values: what config.json holds.

    Raises:
        RunError: there is one.
    """
    for key, number in _numbers(values):
        most = next((limit for pattern, limit in MOST.items() if pattern.fullmatch(key)), number)
        if number > most:
            raise RunError(
                f"{name} cannot be loaded: its config.json declares {key} {shown(number)}, which is more than {most:,}"
            )


def _numbers(node: Any, key: str = "") -> list[tuple[str, float]]:
    """Return all numbers with the nearest key above them."""
    if isinstance(node, dict):
        return [found for name, child in node.items() for found in _numbers(child, str(name))]
    if isinstance(node, list):
        return [found for child in node for found in _numbers(child, key)]
    return [(key, node)] if isinstance(node, int | float) else []
