"""What pruning is asked for: whether it can be reached at all, how much must go for it, and whether it was reached."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from transformers import PreTrainedModel

from hf_compress.ground.errors import RunError
from hf_compress.steps.missed import missed
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.pruner import Pruner
from hf_compress.steps.pruning.remove.removal import Kept
from hf_compress.steps.pruning.score.scoring import Scores, equal

CLOSE, ROUNDED = 1e-3, 1e-2
BISECTIONS = 10
KINDS = {"channel": "channels", "block": "blocks"}
Gone = Callable[[PreTrainedModel], dict[str, float]]


def is_reached(row: dict[str, Any], config: PruneSection) -> bool:
    """Tell whether a round has removed what `target` asks for."""
    return config.target is not None and row[config.target.metric] >= config.target.value - CLOSE


def removed_to_target(
    model: PreTrainedModel, scores: Scores, pruner: Pruner, gone: Gone, config: PruneSection, low: float, high: float
) -> tuple[PreTrainedModel, Kept, float]:
    """Return a pruned copy, what is left, and its amount: `high`, or where that overshoots the least for the target.

    Args:
        low: an amount that does not meet the target.
    """

    def pruned(amount: float) -> tuple[PreTrainedModel, Kept, float]:
        trial = copy.deepcopy(model)
        return trial, pruner.remove(trial, scores, amount), amount

    def is_met(trial: PreTrainedModel) -> bool:
        return gone(trial)[config.target.metric] >= config.target.value

    candidate = pruned(high)
    if config.target is None or not is_met(candidate[0]):
        return candidate
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if is_met((trial := pruned(middle))[0]):
            candidate, high = trial, middle
        else:
            low = middle
    return candidate


def refuse_unreachable(model: PreTrainedModel, pruner: Pruner, gone: Gone, config: PruneSection) -> None:
    """Raise `RunError` where the target is more than goes when every layer is at its floor."""
    target = config.target
    if target is None:
        return
    trial = copy.deepcopy(model)
    try:
        pruner.remove(trial, equal(pruner.groups(trial)), 1 - config.floor)
    except RunError:  # rounds may get far enough before the model stops to run
        return
    if not is_reached(most := gone(trial), config):
        rounding = "" if config.granularity == "block" else f", 'round_to' {config.round_to}"
        stay = f" and {len(pruner.protected)} layers that stay whole" if pruner.protected else ""
        raise RunError(
            f"'prune.target.{target.metric}' {target.value:g} cannot be reached: {most[target.metric]:.3f} can go at "
            f"most, with 'floor' {config.floor:g}{rounding}{stay}; lower the target or 'floor'"
        )


def shortfall(rows: list[dict[str, Any]], config: PruneSection, log: Callable[[str], None]) -> dict[str, Any]:
    """Say where rounds removed less than `target`, or one shot another share than `amount`, and return the details.

    Args:
        rows: of all rounds, the last one being that which ended the pruning.
    """
    if config.target is None and config.iterative:
        return {}
    metric, asked = (config.target.metric, config.target.value) if config.target else ("sparsity", config.amount)
    reached = next((row[metric] for row in reversed(rows) if row["kept"]), 0.0)
    channels = config.granularity == "channel"
    more_by_rounding = config.granularity in KINDS and config.target is None and reached - asked > ROUNDED
    if asked - reached <= (CLOSE if config.target else ROUNDED) and not more_by_rounding:
        return {}
    if "diverged" in rows[-1]:
        reason = "the training diverged when more was gone"
    elif not rows[-1]["kept"]:
        reason = f"more would cost over {config.max_drop:g} of validation accuracy ('max_drop')"
    else:
        reason = f"each layer keeps its floor of {config.floor:g}"
        reason += f", and widths are multiples of {config.round_to} ('round_to')" if channels else ""
        if config.granularity == "block":
            reason = f"blocks go whole, and a floor of {config.floor:g} of them stays"
    kind = KINDS.get(config.granularity, "weights")
    return missed(kind if metric == "sparsity" else metric, asked, reached, reason, log)
