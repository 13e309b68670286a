"""The command line `hf-compress`: one module a group of commands, none of which imports torch at its top."""

import logging
import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console

from hf_compress.cli.auto import auto
from hf_compress.cli.cards import card, cards, publish
from hf_compress.cli.device import benchmark, predict
from hf_compress.cli.methods import distill, prune, quantize
from hf_compress.cli.options import with_quiet
from hf_compress.cli.run import run, schema
from hf_compress.cli.students import students
from hf_compress.cli.tools import evaluate, export, inspect, sensitivity
from hf_compress.ground import processes, progress
from hf_compress.ground.errors import CompressError, UsageError
from hf_compress.ground.machine import CLOSED_PIPE, in_one_sentence

NOISY = "torch.utils._pytree"  # warns of what torchao does, whenever transformers imports it
TOGETHER = {"run", "prune", "distill", "quantize"}  # commands that several processes can work at

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
COMMANDS = (
    *(auto, run, prune, distill, quantize, evaluate, export, predict, benchmark),
    *(publish, card, cards, inspect, sensitivity, students, schema),
)
for command in COMMANDS:
    app.command(epilog=getattr(command, "epilog", None))(with_quiet(command))


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"hf-compress {version('hf-compress')}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Prune and distil Hugging Face vision models into really smaller checkpoints."""


def main(arguments: list[str] | None = None, program: str = "hf-compress") -> None:
    """Run the command line; every expected failure is one sentence and an exit code.

    Args:
        arguments: without the program's name; None takes those of the process.
        program: what the user typed before them, for the help.
    """
    level = logging.ERROR if processes.rank() else logging.WARNING
    logging.basicConfig(format="%(levelname)s: %(message)s", level=level, handlers=[progress.Lines()])
    logging.getLogger(NOISY).setLevel(logging.ERROR)
    for library in progress.LIBRARIES:
        logging.getLogger(library).propagate = False  # or its warnings are printed twice
    _let_pipes_break()
    command_line = typer.main.get_command(app)
    for command in command_line.commands.values():
        command.epilog = command.epilog and command.epilog.replace("hf-compress", program)
    try:
        _refuse_processes(sys.argv[1:] if arguments is None else arguments)
        with in_one_sentence():
            command_line(arguments, prog_name=program)
    except SystemExit as stop:
        if "PacifyFlush" in type(sys.stdout).__name__:  # how click remembers a closed pipe, about which it is silent
            print(f"error: {CLOSED_PIPE}", file=sys.stderr)
            _forget_output()
        raise stop from None
    except CompressError as error:
        if isinstance(error.__cause__, BrokenPipeError):
            _forget_output()
        where = f" in process {processes.rank()}" if processes.rank() else ""
        print(f"error{where}: {error}", *getattr(error, "__notes__", []), sep="\n", file=sys.stderr)
        sys.exit(error.exit_code)


def _refuse_processes(arguments: list[str]) -> None:
    command = next(iter(arguments), "")
    if processes.started() > 1 and command not in TOGETHER:
        raise UsageError(
            f"several processes can {', '.join(sorted(TOGETHER))}: start '{command}' without accelerate launch or "
            "torchrun"
        )


def _let_pipes_break() -> None:
    """Let every console of this process raise BrokenPipeError; rich would end the process without a word."""

    def raise_it(self: Console) -> None:
        raise

    Console.on_broken_pipe = raise_it


def _forget_output() -> None:
    """Throw away what is still to be printed, so that the interpreter does not fail on it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
