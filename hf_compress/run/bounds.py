"""Bounds on products: numbers that are sensible each, and together more than anyone waits for or has memory for."""

from __future__ import annotations

from math import ceil
from typing import Any

from hf_compress.ground.errors import UsageError
from hf_compress.sections.measure import MeasureSection
from hf_compress.sections.models import EnsembleSection, StudentSection, TeacherSection
from hf_compress.steps.pruning.config import PruneSection

MOST_MODELS = 64
MOST_ROUNDS = 1000
MOST_PASSES = 1_000_000
MOST_TIMED = 1_000_000


def refuse_endless(
    teacher: TeacherSection | EnsembleSection | None,
    assistants: list[StudentSection],
    steps: list[dict[str, Any]],
    measure: MeasureSection,
) -> None:
    """Raise UsageError for the first product in a recipe that is too large; the sentence has its factors."""
    ensemble = len(teacher.ensemble) if isinstance(teacher, EnsembleSection) else 0
    for key, models in (("teacher.ensemble", ensemble), ("assistants", len(assistants))):
        if models > MOST_MODELS:
            raise UsageError(f"'{key}' names {models:,} models, which all lie in memory: the most is {MOST_MODELS}")
    if len(steps) > MOST_MODELS:
        raise UsageError(f"'steps' has {len(steps):,} steps, each of which leaves a model: {MOST_MODELS} at most")
    for number, step in enumerate(steps):
        for name, config in step.items():
            if isinstance(config, PruneSection) and config.iterative:
                _refuse_rounds(f"steps.{number}.{name}", config)
    models = 2 + ensemble + len(assistants) + len(steps)
    repeats, runtimes = measure.repeats, len(set(measure.runtimes))
    if (timed := 2 * repeats * models * runtimes) > MOST_TIMED:
        raise UsageError(
            f"'measure.repeats: {repeats}' makes {timed:,} timed passes ({models} models, 2 batch sizes, runtimes: "
            f"{runtimes}): the most is {MOST_TIMED:,}"
        )


def _refuse_rounds(key: str, config: PruneSection) -> None:
    limit, epochs = 1 - config.floor, config.recovery.epochs
    rounds = ceil(limit / config.amount)
    if rounds > MOST_ROUNDS:
        raise UsageError(
            f"'{key}.amount: {config.amount:g}' makes up to {rounds:,} rounds ({limit:g} / {config.amount:g}): raise "
            f"it so that there are at most {MOST_ROUNDS:,}, or set 'iterative: false'"
        )
    if (passes := rounds * epochs) > MOST_PASSES:
        raise UsageError(
            f"'{key}.recovery.epochs: {epochs}' makes {passes:,} passes over the training images in up to {rounds:,} "
            f"rounds: the most is {MOST_PASSES:,}"
        )
