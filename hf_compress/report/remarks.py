"""What a reader of the report should not have to find out alone."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

NOTICEABLE = 0.05


def speed_remarks(rows: list[dict[str, Any]]) -> list[str]:
    """Say where fewer MACs did not become less time, and where a rewrite made a model slower.

    Returns:
        One sentence for every stage, runtime and batch size with at least 5 % fewer MACs than the first stage, but a
        median latency that is less than 5 % shorter; and for every rewrite whose median latency is at least 5 % longer
        than that of the stage before it.
    """
    first, *others = rows
    not_faster = [
        f"'{row['stage']}' has {1 / macs:.2f}x fewer MACs than '{first['stage']}', but is not faster {place}: "
        f"{own:.2f} ms against {before:.2f} ms"
        for row in others
        if (macs := row["cost"]["macs"] / first["cost"]["macs"]) <= 1 - NOTICEABLE
        for place, own, before in _medians(row, first)
        if own > before * (1 - NOTICEABLE)
    ]
    slower_rewrites = [
        f"'{row['stage']}' is slower than '{before['stage']}' {place}: {own:.2f} ms against {old:.2f} ms"
        for before, row in pairwise(rows)
        if "rewrite" in row.get("details", {})
        for place, own, old in _medians(row, before)
        if own >= old * (1 + NOTICEABLE)
    ]
    return sorted(not_faster) + sorted(slower_rewrites)


def _medians(row: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Give the median latencies of two rows wherever both were measured, with the runtime and batch size in words."""
    for runtime, latency in latencies(row).items():
        reference = latencies(other).get(runtime, {})
        for batch in latency.keys() & reference.keys():
            place = f"with {runtime} at {batch.replace('_', ' ')}"
            yield place, latency[batch]["p50_ms"], reference[batch]["p50_ms"]


def latencies(row: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the latencies of a row by runtime."""
    return {"eager": row.get("latency", {}), **row.get("runtimes", {})}
