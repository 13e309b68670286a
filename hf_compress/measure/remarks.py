"""What a reader of the report should not have to find out alone."""

from __future__ import annotations

from typing import Any

NOTICEABLE = 0.05


def speed_remarks(rows: list[dict[str, Any]]) -> list[str]:
    """Say where fewer MACs did not become less time.

    Args:
        rows: rows of a report. Each is compared with the first.

    Returns:
        One sentence for every stage, runtime and batch size with at least 5 % fewer MACs, but a median latency that is
        less than 5 % shorter.
    """
    remarks = []
    first, *others = rows
    for row in others:
        macs = row["cost"]["macs"] / first["cost"]["macs"]
        if macs > 1 - NOTICEABLE:
            continue
        for runtime, latency in latencies(row).items():
            reference = latencies(first).get(runtime, {})
            for batch in latency.keys() & reference.keys():
                own, before = latency[batch]["p50_ms"], reference[batch]["p50_ms"]
                if own > before * (1 - NOTICEABLE):
                    remarks.append(
                        f"'{row['stage']}' has {1 / macs:.2f}x fewer MACs than '{first['stage']}', but is not faster "
                        f"with {runtime} at {batch.replace('_', ' ')}: {own:.2f} ms against {before:.2f} ms"
                    )
    return sorted(remarks)


def latencies(row: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the latencies of a row by runtime; `eager` is always there."""
    return {"eager": row["latency"], **row.get("runtimes", {})}
