"""Command line options made from a recipe's sections, so that the recipe is where an option is described."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hf_compress.cli.options import parse_value


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

    The command takes them as one argument, `values`: what was given, by key path in the recipe.
    """
    fields = {
        group.prefix + name: (group, f"{group.key}.{name}", field)
        for group in groups
        for name, field in group.fields().items()
    }
    options = [_option(name, field, group.title) for name, (group, _, field) in fields.items()]

    def decorate(command: Callable) -> Callable:
        own = inspect.signature(command, eval_str=True).parameters
        signature = inspect.Signature([*(own[name] for name in own if name != "values"), *options])

        @functools.wraps(command)
        def with_values(**arguments: Any) -> Any:
            given = {name: arguments.pop(name) for name in fields}
            values = {
                key: value if _fits_typer(field.annotation) else parse_value(f"'{key}'", value)
                for name, (_, key, field) in fields.items()
                if (value := given[name]) is not None
            }
            return command(**arguments, values=values)

        with_values.__signature__ = signature
        with_values.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
        return with_values

    return decorate


def _option(name: str, field: FieldInfo, heading: str) -> inspect.Parameter:
    """Return the parameter from which typer makes an option; what it has no type for is written as YAML."""
    default = field.get_default(call_default_factory=True)
    shown = False if default in (None, []) else str(default)
    help_ = typer.Option(help=field.description, rich_help_panel=heading, show_default=shown)
    described = Annotated[(field.annotation if _fits_typer(field.annotation) else str) | None, help_]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=described)


def _fits_typer(annotation: Any) -> bool:
    origin, parts = get_origin(annotation), [part for part in get_args(annotation) if part is not type(None)]
    if origin in (Union, UnionType, list):
        return len(parts) == 1 and _fits_typer(parts[0])
    return origin is Literal or annotation in (str, int, float, bool)


def _is_section(annotation: Any) -> bool:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return True
    return any(map(_is_section, get_args(annotation)))
