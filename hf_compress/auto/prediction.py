"""Quality after training, foretold from quality after repair."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import mean
from typing import Any

USUAL, WEIGHT = 0.4, 0.01
"""Before anything was trained, so much of what was lost stays lost; it counts like one model that lost ten points."""


@dataclass
class Prediction:
    """A share of what a model lost stays lost when it was trained: found by least squares over those that were.

    Attributes:
        pairs: for each model that was trained, what it had lost after repair, and after training.
        errors: what was foretold wrong of each, before it was known.
    """

    pairs: list[tuple[float, float]] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)

    @property
    def share(self) -> float:
        products = sum(before * after for before, after in self.pairs) + USUAL * WEIGHT
        return products / (sum(before**2 for before, _ in self.pairs) + WEIGHT)

    def after_training(self, lost: float) -> float:
        """Return what a model that has lost so much after repair is expected to have lost after training."""
        return self.share * lost if lost > 0 else lost

    def learn(self, before: float, after: float) -> None:
        self.errors.append(abs(self.after_training(before) - after))
        self.pairs.append((before, after))

    def facts(self) -> dict[str, Any]:
        """Return for the report how well it went; a rank correlation needs two models that differ."""
        from scipy.stats import spearmanr

        found: dict[str, Any] = {"trained": len(self.pairs), "share_left": self.share}
        if self.errors:
            found["mean_error"] = mean(self.errors)
        if all(len(set(values)) > 1 for values in zip(*self.pairs, strict=True)) and len(self.pairs) > 1:
            found["rank_correlation"] = float(spearmanr(*zip(*self.pairs, strict=True)).statistic)
        return found
