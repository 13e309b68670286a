"""Options and arguments that several commands share."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from hf_compress.ground import progress
from hf_compress.ground.errors import UsageError, shown

C = TypeVar("C", bound=Callable)
DATA_HELP = "Hub data set, folder of images or parquet, or digits."
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Run Python code of the repository.")]
Publish = Annotated[bool, typer.Option("--publish", help="Publish the result where the recipe's `publish` says.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run of the same recipe.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: any value of the recipe; repeatable.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Track = Annotated[str | None, typer.Option(help="Show trainings in trackio, tensorboard or wandb, too.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print results and errors only.")]


def examples(*lines: str) -> Callable[[C], C]:
    """Return a decorator that gives a command's function the `epilog` of its help."""

    def decorate(command: C) -> C:
        command.epilog = "[bold]Examples[/bold]\n\n" + "\n\n".join(f"  {line}" for line in lines)
        return command

    return decorate


def with_quiet(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with the option --quiet more."""
    own = inspect.signature(command, eval_str=True).parameters.values()
    quiet = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)

    @functools.wraps(command)
    def run(*, quiet: bool, **arguments: Any) -> None:
        if quiet:
            progress.silence()
        progress.without_bars_of_libraries()
        command(**arguments)

    run.__signature__ = inspect.Signature([*own, quiet])
    run.__annotations__ = {name: each.annotation for name, each in run.__signature__.parameters.items()}
    return run


def assignments(texts: list[str] | None, option: str = "--set") -> dict[str, Any]:
    """Parse the values of an option that takes KEY=VALUE.

    Raises:
        UsageError: a text is not KEY=VALUE, or the value is not YAML.
    """
    values = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{option} needs KEY=VALUE, not {shown(text)}")
        values[key] = parse_value(f"{option} {key}", value)
    return values


def parse_value(option: str, text: str) -> Any:
    """Read the YAML value of an option.

    Raises:
        UsageError: it is none.
    """
    from hf_compress.ground.bounded_yaml import read_yaml

    try:
        return read_yaml(text)
    except ValueError as error:
        raise UsageError(f"{option}: {shown(text)} is not a YAML value: {error}") from None
