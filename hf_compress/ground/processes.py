"""The processes of a run: one, or as many as `accelerate launch` or `torchrun` started, all doing the same.

The main process alone decides what rounding could make differ, measures time, and writes the run folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from hf_compress.ground import progress
from hf_compress.ground.errors import UsageError

if TYPE_CHECKING:
    from accelerate import PartialState

_T = TypeVar("_T")
PATIENCE = timedelta(hours=3)  # for the main process alone at work; a launcher ends all when one fails
SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron",
}


def rank() -> int:
    """Return this process's number, as the launcher says, without joining the others."""
    return int(os.environ.get("RANK", 0))


def started() -> int:
    """Return how many processes the launcher started, without joining them."""
    return int(os.environ.get("WORLD_SIZE", 1))


def count() -> int:
    return _state().num_processes


def is_main() -> bool:
    return _state().is_main_process


def wait() -> None:
    """Wait until every process is here."""
    _state().wait_for_everyone()


def from_main(value: _T) -> _T:
    """Return the main process's value, which can be pickled, on every process."""
    from accelerate.utils import broadcast_object_list

    _state()
    return broadcast_object_list([value])[0]


def on_main(compute: Callable[[], _T]) -> _T:
    """Return what the main process computes, on every process; the others wait."""
    return cast(_T, from_main(compute() if is_main() else None))


def gathered(items: list[_T]) -> list[_T]:
    """Return the items of all processes, in their order."""
    from accelerate.utils import gather_object

    _state()
    return gather_object(items)


def main_first() -> AbstractContextManager[None]:
    """Let the main process through a `with` block before the others."""
    return _state().main_process_first()


def begin(log: Callable[[str], None]) -> Callable[[str], None]:
    """Join the other processes and silence all but the main one; return what each logs with.

    Raises:
        UsageError: the launcher was told to divide models among the processes.
    """
    for flag, name in SHARDING.items():
        if os.environ.get(flag, "false").lower() in {"true", "1"}:
            raise UsageError(
                f"{name} divides a model's weights among processes, but pruning and checkpoints need them whole: "
                "choose plain data parallelism in accelerate's config (distributed_type: MULTI_GPU)"
            )
    if is_main():
        return log
    import datasets

    datasets.disable_progress_bars()
    progress.silence()
    return lambda line: None


def end() -> None:
    """Leave the other processes."""
    _state().destroy_process_group()


def _state() -> PartialState:
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
