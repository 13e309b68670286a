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
NEAR = 1e-2  # of a time that was measured
BISECTIONS, TIMED = 10, 4
KINDS = {"channel": "channels", "block": "blocks"}
Gone = Callable[[PreTrainedModel], dict[str, float]]
Trial = tuple[PreTrainedModel, Kept, float]
"""A pruned copy, what is left of it, and its amount."""


def is_reached(row: dict[str, Any], config: PruneSection) -> bool:
    """Tell whether a round has removed what `target` asks for; one point may lack of time, which is measured."""
    target = config.target
    return target is not None and row[target.metric] >= target.value - (NEAR if target.metric == "latency" else CLOSE)


def removed_to_target(
    model: PreTrainedModel,
    scores: Scores,
    pruner: Pruner,
    gone: Gone,
    config: PruneSection,
    low: float,
    high: float,
    time_gone: Callable[[PreTrainedModel], float] | None = None,
) -> tuple[PreTrainedModel, Kept, dict[str, float]]:
    """Return a pruned copy, what is left, and its `amount`: `high`, or where that overshoots the least for the target.

    With a target, an amount with which the model does not run is more than that.

    Args:
        low: an amount that does not meet the target.
        time_gone: measures which fraction of the unpruned model's time a copy saves. With it, the target is one of
            time, and what was measured is returned as `latency`.
    """

    def pruned(amount: float) -> Trial:
        trial = copy.deepcopy(model)
        return trial, pruner.remove(trial, scores, amount), amount

    candidate, figures = _most(pruned, low, high) if config.target else pruned(high), {}
    if time_gone is not None:
        candidate, figures["latency"] = _timed_to_target(pruned, gone, time_gone, config.target.value, low, candidate)
    elif config.target is not None:
        candidate = _least(pruned, gone, config.target.metric, config.target.value, low, candidate)
    trial, kept, amount = candidate
    return trial, kept, {"amount": amount} | figures


def _most(pruned: Callable[[float], Trial], low: float, high: float) -> Trial:
    """Return the copy with the greatest amount up to `high` that runs, as a bisection finds it.

    Raises:
        RunError: none does.
    """
    try:
        return pruned(high)
    except RunError as error:
        found, broken = None, error
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        try:
            found, low = pruned(middle), middle
        except RunError:
            high = middle
    if found is None:
        raise broken
    return found


def _least(
    pruned: Callable[[float], Trial], gone: Gone, metric: str, wanted: float, low: float, candidate: Trial
) -> Trial:
    """Return the copy with the least amount above `low` that lacks what is wanted; the candidate where it does not.

    One that does not run lacks too much.
    """

    def is_met(trial: PreTrainedModel) -> bool:
        return gone(trial)[metric] >= wanted

    if not is_met(candidate[0]):
        return candidate
    high = candidate[2]
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        try:
            trial = pruned(middle)
        except RunError:
            high = middle
            continue
        if is_met(trial[0]):
            candidate, high = trial, middle
        else:
            low = middle
    return candidate


def _timed_to_target(
    pruned: Callable[[float], Trial],
    gone: Gone,
    time_gone: Callable[[PreTrainedModel], float],
    wanted: float,
    low: float,
    candidate: Trial,
) -> tuple[Trial, float]:
    """Return the copy that saves the wanted time as nearly as a few measurements find it, and what it saves.

    MACs are counted without noise: between two models that were measured, one that saves too little and one that saves
    more than enough, time is taken to fall with them, the copy with so many MACs is measured, and takes the place of
    one of the two.
    """
    time, macs = time_gone(candidate[0]), gone(candidate[0])["macs"]
    slow_time, slow_macs = 0.0, 0.0
    for _ in range(TIMED):
        if time <= wanted + NEAR:
            break
        between = slow_macs + (wanted - slow_time) / (time - slow_time) * (macs - slow_macs)
        trial = _least(pruned, gone, "macs", between, low, candidate)
        if (trial_macs := gone(trial[0])["macs"]) == macs:
            break
        trial_time = time_gone(trial[0])
        if trial_time >= wanted - NEAR:
            candidate, time, macs = trial, trial_time, trial_macs
        else:
            low, slow_time, slow_macs = trial[2], trial_time, trial_macs
    return candidate, time


def refuse_unreachable(model: PreTrainedModel, pruner: Pruner, gone: Gone, config: PruneSection) -> None:
    """Raise `RunError` where the target is more than goes when every layer is at its floor.

    Nothing is refused where `gone` does not tell what the target is of.
    """
    target = config.target
    if target is None:
        return
    trial = copy.deepcopy(model)
    try:
        pruner.remove(trial, equal(pruner.groups(trial)), 1 - config.floor)
    except RunError:  # rounds may get far enough before the model stops to run
        return
    most = gone(trial)
    if target.metric in most and not is_reached(most, config):
        rounding = "" if config.granularity == "block" else f", 'round_to' {config.round_to}"
        stay = f" and {len(pruner.protected)} layers that stay whole" if pruner.protected else ""
        raise RunError(
            f"'prune.target.{target.metric}' {target.value:g} cannot be reached: {most[target.metric]:.3f} can go at "
            f"most, with 'floor' {config.floor:g}{rounding}{stay}; lower the target or 'floor'"
        )


def shortfall(
    rows: list[dict[str, Any]], config: PruneSection, words: str, log: Callable[[str], None]
) -> dict[str, Any]:
    """Say where rounds removed less than `target`, or one shot another share than `amount`, and return the details.

    Args:
        rows: of all rounds, the last one being that which ended the pruning.
        words: what the metric is called that `max_drop` bounds.
    """
    if config.target.metric == "accuracy" if config.target else config.iterative:
        return {}
    metric, asked = (config.target.metric, config.target.value) if config.target else ("sparsity", config.amount)
    reached = next((row[metric] for row in reversed(rows) if row["kept"]), 0.0)
    channels = config.granularity == "channel"
    more_by_rounding = config.granularity in KINDS and config.target is None and reached - asked > ROUNDED
    is_near = is_reached({metric: reached}, config) if config.target else asked - reached <= ROUNDED
    if is_near and not more_by_rounding:
        return {}
    if "diverged" in rows[-1]:
        reason = "the training diverged when more was gone"
    elif not rows[-1]["kept"]:
        reason = f"more would cost over {config.max_drop:g} of validation {words} ('max_drop')"
    elif config.target and rows[-1]["amount"] < 1 - config.floor - CLOSE:
        reason = "the model does not run when more is gone"
    else:
        reason = f"each layer keeps its floor of {config.floor:g}"
        reason += f", and widths are multiples of {config.round_to} ('round_to')" if channels else ""
        if config.granularity == "block":
            reason = f"blocks go whole, and a floor of {config.floor:g} of them stays"
    kind = KINDS.get(config.granularity, "weights")
    return missed(kind if metric == "sparsity" else metric, asked, reached, reason, log)
