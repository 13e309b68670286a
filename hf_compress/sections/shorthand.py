"""A string that stands for a section."""

from __future__ import annotations

from typing import Any


def named(value: Any, key: str) -> Any:
    """A string stands for a section in which it is the value of `key`."""
    return {key: value} if isinstance(value, str) else value


def all_named(values: Any, key: str) -> Any:
    """The same for every item of a list."""
    return [named(value, key) for value in values] if isinstance(values, list) else values
