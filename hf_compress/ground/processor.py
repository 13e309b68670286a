"""The name of the processor."""

from __future__ import annotations

import platform


def device_name() -> str:
    """Return the processor's name as the operating system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
