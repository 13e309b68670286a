"""The terminal that commands print to, and what becomes of them when nobody reads it any more."""

from __future__ import annotations

import os
import sys

from rich.console import Console


def let_pipes_break() -> None:
    """Let every console of this process raise BrokenPipeError; rich would end the process without a word."""

    def raise_it(self: Console) -> None:
        raise

    Console.on_broken_pipe = raise_it


def forget_output() -> None:
    """Throw away what is still to be printed, so that the interpreter does not fail on it when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
