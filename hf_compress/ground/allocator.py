"""What the C library does with memory that a training step frees."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of mallopt's options in malloc.h
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # and trim threshold twice that: what glibc comes to by itself
KEPT = 2**31 - 1


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
