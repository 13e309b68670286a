"""Where a step removed another share than it was asked for: said in the terminal, the report and the card."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

COST_NAMES = {"macs": "MACs", "latency": "time"}


def missed(what: str, asked: float, reached: float, reason: str, log: Callable[[str], None]) -> dict[str, Any]:
    """Say that a step removed another share than it was asked for, and return what belongs into its details.

    Args:
        what: was to be removed: `macs`, `parameters`, `latency`, `channels` or `weights`.
        asked, reached: fractions of the model before.
        reason: why, in words.
    """
    log(f"not as asked: {asked:.1%} of the {COST_NAMES.get(what, what)} were to go, {reached:.1%} went: {reason}")
    return {"missed": {"what": what, "asked": asked, "reached": reached, "reason": reason}}
