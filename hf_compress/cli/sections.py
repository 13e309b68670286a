"""Command line options made from a recipe's sections, so that the recipe is where an option is described."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Group:
    """Options that stand together under one heading of the help.

    Attributes:
        title: the heading.
        key: where the section lies in the recipe (`steps.prune.recovery`).
        section: its pydantic class.
        only: the fields that become options; all when empty. Nested sections never do.
        prefix: what the names of the options begin with.
    """

    title: str
    key: str
    section: type[BaseModel]
    only: tuple[str, ...] = ()
    prefix: str = ""

    def fields(self) -> dict[str, FieldInfo]:
        """Return the fields by name."""
        fields = self.section.model_fields
        return {name: fields[name] for name in self.only or fields if not _is_section(fields[name].annotation)}


def options_from(*groups: Group) -> Callable:
    """Return a decorator that adds the options of `groups` to a command.

    The command takes them as one argument, `values`: what was given or is the default, by key path in the recipe.
    """
    keys = {group.prefix + name: f"{group.key}.{name}" for group in groups for name in group.fields()}
    options = [
        inspect.Parameter(
            group.prefix + name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.get_default(call_default_factory=True),
            annotation=Annotated[field.annotation, typer.Option(help=field.description, rich_help_panel=group.title)],
        )
        for group in groups
        for name, field in group.fields().items()
    ]

    def decorate(command: Callable) -> Callable:
        own = inspect.signature(command, eval_str=True).parameters
        signature = inspect.Signature([*(own[name] for name in own if name != "values"), *options])

        @functools.wraps(command)
        def with_values(**arguments: Any) -> Any:
            values = {key: arguments.pop(name) for name, key in keys.items()}
            return command(**arguments, values={key: value for key, value in values.items() if value is not None})

        with_values.__signature__ = signature
        with_values.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
        return with_values

    return decorate


def _is_section(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(map(_is_section, get_args(annotation)))
