"""The kinds of failure a user meets, and the exit codes they get."""

from typing import Any

MOST_OF_A_VALUE, MOST_OF_A_SENTENCE = 200, 1000


def shown(value: Any) -> str:
    """Return the `repr` of a value, without the middle of a long one."""
    return shortened(repr(value), MOST_OF_A_VALUE)


def shortened(text: str, most: int) -> str:
    """Return a text without what is too much in its middle."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def printable_line(text: str) -> str:
    """Return a text on one line; what a terminal would not print as it stands, or obey, is escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in " ".join(text.split()))


class CompressError(Exception):
    """An error whose message is one sentence that says what is wrong, where, and what to do."""

    exit_code = 1

    def __init__(self, sentence: str):
        super().__init__(shortened(printable_line(sentence), MOST_OF_A_SENTENCE))


class UsageError(CompressError):
    """The recipe, an argument or a path is wrong; nothing has been run."""

    exit_code = 2


class RunError(CompressError):
    """The recipe was understood, but the run cannot go on."""


class OutOfReach(RunError):
    """The Hub does not answer, and what is needed is not cached."""


class Settled(RunError):
    """What was done is the answer: to go on from there, or to do it again, comes to the same point."""


class DoesNotRun(Settled):
    """A model does not run any more, since too much was removed from it."""


class Diverged(Settled):
    """The numbers of a training are not finite any more: `reason` says which, `where` the step, epoch and batch."""

    def __init__(self, reason: str, where: dict[str, int]):
        place = ", ".join(f"{name} {number}" for name, number in where.items())
        super().__init__(
            f"{reason} ({place}): lower 'learning_rate', set 'on_nan: retry' to halve it and go on from the last good "
            "epoch, or use precision fp32"
        )
        self.reason = reason
        self.where = where


class Interrupted(CompressError):
    """The user pressed Ctrl-C."""

    exit_code = 130
