"""The kinds of failure a user meets, and the exit codes they get."""


class CompressError(Exception):
    """An error whose message is one sentence that says what is wrong, where, and what to do."""

    exit_code = 1


class UsageError(CompressError):
    """The recipe, an argument or a path is wrong; nothing has been run."""

    exit_code = 2


class RunError(CompressError):
    """The recipe was understood, but the run cannot go on."""


class Interrupted(CompressError):
    """The user pressed Ctrl-C."""

    exit_code = 130
