"""What the machine does to a run, in one sentence each: memory that runs out, a process that dies, a closed pipe."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from hf_compress.ground.errors import RunError

SAID = {
    "out of memory": ("can't allocate memory", "out of memory", "can't start new thread", "Cannot allocate memory"),
    "dead worker": ("DataLoader worker",),
}
CLOSED_PIPE = "the output cannot be written: whoever read it has stopped (a closed pipe)"
SENTENCES = {
    "out of memory": "memory runs out: close other programs, raise the limit (ulimit -v), or use a smaller "
    "'batch_size', 'data.cache_mb' and 'data.workers'",
    "dead worker": "a process that decodes images died, perhaps because memory ran out: use fewer 'data.workers'; 0 "
    "decodes in the main process",
    "closed pipe": CLOSED_PIPE,
}


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Turn what the machine does to a run into a RunError, with the notes of the error."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        kind = failure_of(error)
        if kind is None:
            raise
        failure = RunError(SENTENCES[kind])
        for note in getattr(error, "__notes__", []):
            failure.add_note(note)
        raise failure from error


def failure_of(error: BaseException) -> str | None:
    """Return what the machine did, a key of `SENTENCES`; None for any other error."""
    if isinstance(error, BrokenPipeError):
        return "closed pipe"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN)):
        return "out of memory"
    if isinstance(error, RuntimeError):
        text = str(error)
        return next((kind for kind, parts in SAID.items() if any(part in text for part in parts)), None)
    return None
