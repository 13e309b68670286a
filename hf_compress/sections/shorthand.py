"""A string that stands for a section."""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import BeforeValidator


def named(value: Any, key: str) -> Any:
    """A string stands for a section in which it is the value of `key`."""
    return {key: value} if isinstance(value, str) else value


def shorthand(section: Any, key: str) -> BeforeValidator:
    """Return what lets a string stand for a section in which it is the value of `key`, and says so in the schema."""
    return BeforeValidator(partial(named, key=key), json_schema_input_type=str | section)
