"""Which points may be the answer, in which order, and what to say where none is."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_compress.auto.judging import BRIEF, Point
from hf_compress.auto.prediction import Prediction
from hf_compress.auto.wish import Wish
from hf_compress.report.measures import ratio
from hf_compress.run.selection.limits import costs_in_words, excess
from hf_compress.tasks.base import Metric


@dataclass(frozen=True)
class Decision:
    """Compares points by a wish.

    Attributes:
        teacher: the model as it is, in float32.
        prediction: of what a training makes of a model after repair.
        of_students: the same of a student after its short training.
    """

    wish: Wish
    metric: Metric
    teacher: Point
    prediction: Prediction
    of_students: Prediction = field(default_factory=Prediction)

    def lost(self, point: Point) -> float:
        """Return what a point has lost of the teacher's quality."""
        return self.metric.lost(point.quality, self.teacher.quality)

    def expected(self, point: Point) -> float:
        """Return what it will have lost when it is trained."""
        return self.lost(point) if point.trained else self.foretold_by(point).after_training(self.lost(point))

    def foretold_by(self, point: Point) -> Prediction:
        return self.of_students if point.kind == BRIEF else self.prediction

    @property
    def share_left(self) -> float:
        """The share of the teacher's MACs that a model within the limits keeps, roughly."""
        limits = self.limits(self.teacher)
        shares = [limit / self.teacher.costs[key] for key, limit in limits.items()]
        return min(1.0, min(shares, default=0.5))

    def limits(self, point: Point) -> dict[str, float]:
        """Return the most of each cost; of time somewhat less than wished, since it is measured again later."""
        return self.wish.limits(point.teacher_ms or 0.0, point.sure)

    def excess(self, point: Point) -> float:
        """Return the largest of a point's costs in its limit; at most 1 where all are kept."""
        return excess(point.costs, self.limits(point))

    def fits(self, point: Point) -> bool:
        """Tell whether a point keeps all limits; one of time is kept by what was timed alone."""
        return not (self.wish.is_of_time and point.teacher_ms is None) and self.excess(point) <= 1

    def keeps(self, point: Point) -> bool:
        """Tell whether a point has lost as little as wished."""
        return self.wish.max_drop is None or self.lost(point) <= self.wish.max_drop + 1e-9

    def in_order(self, points: list[Point]) -> list[Point]:
        """Return points, the most promising first.

        Within limits of the cost the best quality wins; where there are none, the lowest cost within `max_drop`.
        """
        if self.wish.has_limits:
            return sorted(points, key=lambda point: (self.expected(point), point.costs["effort"]))
        most = self.wish.max_drop + 1e-9
        return sorted(
            points,
            key=lambda point: (
                (0, point.costs["effort"]) if self.expected(point) <= most else (1, self.expected(point))
            ),
        )

    def best(self, points: list[Point]) -> Point:
        """Return the winner among points that keep the limits, by what they have lost as they are."""
        kept = [point for point in points if self.keeps(point)] or points
        if self.wish.has_limits or not self.keeps(kept[0]):
            return min(kept, key=lambda point: (self.lost(point), point.costs["effort"]))
        return min(kept, key=lambda point: (point.costs["effort"], self.lost(point)))

    def shown(self, point: Point) -> str:
        """Say what a point is, what it has lost, and what it costs of what is limited."""
        costs = costs_in_words(point.costs, self.limits(point))
        times = ratio(point.teacher_ms, point.costs["latency_ms"], "faster") if point.teacher_ms else ""
        return ", ".join(filter(None, [str(point), f"{self.metric.words} {point.quality:.4f}", times, costs]))

    def impossible(self, points: list[Point], minutes: float | None = None) -> str:
        """Say which point is the nearest to limits that none keeps.

        Args:
            minutes: those that ended the search before all candidates were judged.
        """
        nearest = self.shown(min(points, key=self.excess))
        if minutes is None:
            return f"no candidate is {self.wish}: the nearest is {nearest}; wish for less, or widen the space"
        return (
            f"in {minutes:g} minutes no candidate was found that is {self.wish}: of {len(points)} the nearest is "
            f"{nearest}; give more minutes, or wish for less"
        )

    def missed(self, winner: Point, points: list[Point]) -> str | None:
        """Say that the winner has lost more than wished, and what has not; None where it has not."""
        if self.keeps(winner):
            return None
        known = [
            point for point in points if self.keeps(point) and not (self.wish.is_of_time and not point.teacher_ms)
        ]
        nearest = f"; the nearest that has not is {self.shown(min(known, key=self.excess))}" if known else ""
        return (
            f"the wish '{self.wish}' is missed: the best within the limits has lost {self.lost(winner):.4f} of "
            f"{self.metric.words} on validation images{nearest}"
        )
