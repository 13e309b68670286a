"""Memory: smaller batches when it runs out, how much there is, and what becomes of what a step frees."""

import ctypes
import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from hf_compress.ground import processes
from hf_compress.ground.errors import CompressError, RunError

T = TypeVar("T")
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of mallopt's options in malloc.h
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # and trim threshold twice that: what glibc comes to by itself
KEPT = 2**31 - 1
logger = logging.getLogger(__name__)


def in_fitting_batches(
    run: Callable[[int], T], batch_size: int, smaller: Callable[[int], int] = lambda size: size // 2
) -> T:
    """Call `run` with the size of its batches; as often as memory runs out, again with a smaller one.

    By hand, because accelerate's `find_executable_batch_size` collects garbage before every call, which its own
    documentation calls a considerable slowdown, and this one is called in every epoch.

    Args:
        run: can be called again after it ran out of memory.
        smaller: gives the next size to try; halves it when not given.

    Raises:
        RunError: memory runs out with a single image, too.
        CompressError: memory runs out in one of several processes. No caller may go on after that: the others do not
            know, and wait.
    """
    while True:
        try:
            return run(batch_size)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if processes.count() > 1:
                raise CompressError(
                    f"memory runs out with {batch_size} images in process {processes.rank()}: lower 'batch_size', "
                    "which counts for each process, or use smaller images; one process alone finds the size itself"
                ) from error
            if batch_size == 1:
                raise RunError("memory runs out with a single image: use smaller images or a smaller model") from error
        previous, batch_size = batch_size, smaller(batch_size)
        logger.warning("memory ran out with batches of %d images: going on with %d", previous, batch_size)
        clear_device_cache(garbage_collection=True)


def machine_bytes() -> int:
    """Return how much memory this machine has; where it does not say, more than there can be."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 2**60


def next_divisor(number: int, size: int) -> int:
    """Return the largest divisor of `number` that is at most half of `size`: batches that add up to `number` again."""
    return next(divisor for divisor in range(size // 2, 0, -1) if number % divisor == 0)


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep up to 2 GiB of freed memory for the next step, instead of fetching it anew page by page.

    A step on the CPU frees about what the next one needs; glibc would return most of it to the system in between,
    which costs a tenth of the time. Other C libraries are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    libc.mallopt(TRIM_THRESHOLD, KEPT)
    try:
        yield
    finally:
        libc.mallopt(TRIM_THRESHOLD, 2 * LARGEST_MMAP_THRESHOLD)
        libc.malloc_trim(0)
