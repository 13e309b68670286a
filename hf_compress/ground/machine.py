"""What the machine does to a run, in one sentence each: memory that runs out, a process that dies, a closed pipe."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from hf_compress.ground.errors import RunError

CLOSED_PIPE = "the output cannot be written: whoever read it has stopped (a closed pipe)"
NO_MEMORY = (
    "memory runs out: close other programs, raise the limit (ulimit -v), or use a smaller 'batch_size', "
    "'data.cache_mb' and 'data.workers'"
)
DEAD_WORKER = (
    "a process that decodes images died, perhaps because memory ran out: use fewer 'data.workers'; 0 decodes in the "
    "main process"
)
SAID = {
    "can't allocate memory": NO_MEMORY,
    "out of memory": NO_MEMORY,
    "can't start new thread": NO_MEMORY,
    "Cannot allocate memory": NO_MEMORY,
    "DataLoader worker": DEAD_WORKER,
}


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """Turn what the machine does to a run into a RunError, with the notes of the error."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        sentence = failure_of(error)
        if sentence is None:
            raise
        failure = RunError(sentence)
        for note in getattr(error, "__notes__", []):
            failure.add_note(note)
        raise failure from error


def failure_of(error: BaseException) -> str | None:
    """Return what the machine did, in a sentence; None for any other error."""
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN)):
        return NO_MEMORY
    if isinstance(error, RuntimeError):
        return next((sentence for part, sentence in SAID.items() if part in str(error)), None)
    return None
