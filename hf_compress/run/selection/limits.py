"""Limits of what a model may cost, in words and in numbers: of a student's budget, and of a wish."""

from __future__ import annotations

from collections.abc import Mapping

from hf_compress.report.measures import in_thousands, milliseconds, size

LATENCY = "latency_ms"
MARGIN = 0.9  # share of a limit of latency that is used: it must be kept when a model is measured afresh
IN_WORDS = {
    LATENCY: milliseconds,
    "bytes": size,
    "macs": lambda value: f"{in_thousands(value)} MACs",
    "parameters": lambda value: f"{in_thousands(value)} parameters",
    "peak_memory_bytes": lambda value: f"{size(value)} of memory",
}


def costs_in_words(costs: Mapping[str, float], limited: Mapping[str, float]) -> str:
    """Say what something costs of what is limited, as far as it is known."""
    return ", ".join(IN_WORDS[key](costs[key]) for key in limited if key in costs)


def excess(costs: Mapping[str, float], limits: Mapping[str, float]) -> float:
    """Return the largest known cost in its limit: at most 1 where all are kept; the least is the nearest."""
    return max((costs[key] / limit for key, limit in limits.items() if key in costs), default=0.0)
