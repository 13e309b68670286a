"""Which candidates are within a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from hf_compress.data.images import input_size
from hf_compress.ground import processes
from hf_compress.ground.errors import RunError
from hf_compress.measure.latency import measure_latency
from hf_compress.models.load import LoadedModel
from hf_compress.run.selection.candidates import Blueprint, Candidate
from hf_compress.run.selection.limits import LATENCY, MARGIN, costs_in_words, excess

ROUNDS = 3

Stopwatch = Callable[[list[Candidate]], list[float]]


@dataclass(frozen=True)
class Timer:
    """Measures latency as the report does: on the CPU, eager, channels-last, one image, the median.

    The passes are made in three rounds, and the lowest median counts: other programs only ever make a model slower.

    Attributes:
        blueprint: how candidates are built.
        repeats: timed passes a model.
        threads: see `measure_latency`.
    """

    blueprint: Blueprint
    repeats: int = 30
    threads: int | None = None

    def __call__(self, candidates: list[Candidate], beside: LoadedModel | None = None) -> list[float]:
        """Return the milliseconds of candidates with random weights.

        Args:
            beside: a model that runs in turn with them, as the teacher does when a run measures its stages.
        """
        return processes.on_main(lambda: self._time(candidates, beside))

    def _time(self, candidates: list[Candidate], beside: LoadedModel | None) -> list[float]:
        models = [self.blueprint.build(candidate).model for candidate in candidates]
        images = [self.blueprint.image] * len(models)
        if beside is not None:
            models.append(beside.model)
            images.append(torch.zeros(1, 3, *input_size(beside.processor)))
        passes = max(3, self.repeats // ROUNDS)
        rounds = [measure_latency(models, images, [1], passes, self.threads) for _ in range(ROUNDS)]
        medians = [[entry["batch_1"]["p50_ms"] for entry in measured] for measured in rounds]
        return [min(of_one) for of_one in zip(*medians, strict=True)][: len(candidates)]


def fit_to_budget(candidates: Sequence[Candidate], budget: dict[str, float], stopwatch: Stopwatch) -> list[Candidate]:
    """Note in every candidate why it is not within the budget, and return those that are.

    Latency is measured last, from narrow to wide, of all families in turn; what is wider than a student that is too
    slow is not measured.
    """
    limits = dict(budget)
    milliseconds = limits.pop(LATENCY, None)
    for candidate in candidates:
        over = [key for key, limit in limits.items() if candidate.costs[key] > limit]
        candidate.misses = f"more than the budget: {', '.join(map(candidate.shown, over))}" if over else None
    if milliseconds is not None:
        _fit_latency([candidate for candidate in candidates if candidate.misses is None], milliseconds, stopwatch)
    return [candidate for candidate in candidates if candidate.misses is None]


def _fit_latency(candidates: list[Candidate], limit: float, stopwatch: Stopwatch) -> None:
    too_slow: dict[str, Candidate] = {}
    for width in sorted({candidate.width for candidate in candidates}):
        level = [candidate for candidate in candidates if candidate.width == width]
        for candidate in level:
            if candidate.model in too_slow:
                candidate.misses = f"wider than {too_slow[candidate.model]}, which is too slow"
        timed = [candidate for candidate in level if candidate.misses is None]
        for candidate, milliseconds in zip(timed, stopwatch(timed) if timed else [], strict=True):
            candidate.costs[LATENCY] = milliseconds
            if milliseconds > MARGIN * limit:
                candidate.misses = f"more than {MARGIN:.0%} of the budget: {candidate.shown(LATENCY)}"
                too_slow[candidate.model] = candidate


def nothing_fits(candidates: Sequence[Candidate], limits: dict[str, float]) -> RunError:
    """Return the error that names the candidate which exceeds the budget by the smallest factor."""
    known = [candidate for candidate in candidates if limits.keys() <= candidate.costs.keys()] or candidates
    nearest = min(known, key=lambda candidate: excess(candidate.costs, limits))
    return RunError(
        f"no student is within the budget of {budget_in_words(limits)}: the nearest is {nearest} with "
        f"{costs_in_words(nearest.costs, limits)}; raise 'student.budget' or lower "
        "'student.image_size'"
    )


def budget_in_words(limits: dict[str, float]) -> str:
    """Return the budget in words."""
    margin = f" (less a margin of {1 - MARGIN:.0%})" if LATENCY in limits else ""
    return costs_in_words(limits, limits) + margin
