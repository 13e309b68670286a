"""How long calls take, in turn, how steady the machine was, and whether other processes ran meanwhile."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

WARM_UP, ROUNDS = 3, 5
ALONE = 0.1  # cores


def timed_in_turns(
    calls: Sequence[Callable[[], Any]], repeats: int, turns: Callable[[int], Iterable[int]] = range
) -> list[list[float]]:
    """Time functions in turn, so that a slow moment of the machine meets all of them, `repeats` times after warm-up.

    Args:
        turns: gives the numbers of the turns, of which it is told how many there are.

    Returns:
        For each function the seconds of its passes, one a turn.
    """
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in turns(WARM_UP + repeats):
        for call, times in zip(calls, seconds, strict=True):
            start = time.perf_counter()
            call()
            if turn >= WARM_UP:
                times.append(time.perf_counter() - start)
    return seconds


def of_times(seconds: Sequence[float]) -> dict[str, float]:
    """Sum up the times of passes, in their order.

    Returns:
        The milliseconds `p50_ms` and `p95_ms`, and `noise`: how far apart the medians of five rounds of the passes
        lie, as a fraction of the median of all.
    """
    p50, p95 = np.quantile(seconds, [0.5, 0.95])
    medians = [np.median(part) for part in np.array_split(seconds, min(ROUNDS, len(seconds)))]
    return {"p50_ms": float(1000 * p50), "p95_ms": float(1000 * p95), "noise": float(np.ptp(medians) / p50)}


class Others:
    """Watches, from its creation on, how busy other processes keep the machine."""

    def __init__(self):
        self.start = _clocks()

    @property
    def cores(self) -> float:
        """How many cores other processes took on average; 0 where the system does not tell."""
        wall, own, busy = (now - before for now, before in zip(_clocks(), self.start, strict=True))
        return max(busy - own, 0.0) / wall if wall > 0 else 0.0

    @property
    def warning(self) -> list[str]:
        """A sentence, where other processes took a tenth of a core or more."""
        if self.cores < ALONE:
            return []
        return [
            f"other processes took {self.cores:.1f} of {os.cpu_count()} cores while latency was measured: stop "
            "them and measure again, for ratios that can be trusted"
        ]


def _clocks() -> tuple[float, float, float]:
    """Return the seconds of the clock, of this process and its children on all cores, and of all processes."""
    times = os.times()
    return time.monotonic(), sum(times[:4]), _busy()


def _busy() -> float:
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _idle, _waiting, *rest = map(int, file.readline().split()[1:])
    except (OSError, ValueError):
        return 0.0
    return (user + nice + system + sum(rest[:3])) / os.sysconf("SC_CLK_TCK")
