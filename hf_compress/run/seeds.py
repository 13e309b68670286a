"""Which random numbers a run uses for what."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hf_compress.run.recipe import Recipe

SEEDS = 2**32  # so many are there, from 0 on; NumPy and scikit-learn take no other


@dataclass(frozen=True)
class Seeds:
    """Different seeds for models of one architecture, which must not begin with the same weights.

    Attributes:
        recipe: of the splits, and of every training and pruning of assistants and student.
        student: of the random weights of assistants and student.
        teachers: of the random weights, and of the training, of each teacher.
    """

    recipe: int
    student: int
    teachers: list[int]

    @classmethod
    def of(cls, recipe: Recipe) -> Seeds:
        """Derive all from the recipe's seed; after the last one comes 0."""
        seed = recipe.seed
        teachers = [seed if number == 0 else seed + 1 + number for number in range(len(recipe.teachers))]
        return cls(seed, (seed + 1) % SEEDS, [teacher % SEEDS for teacher in teachers])

    @property
    def facts(self) -> dict[str, Any]:
        """What the report says of them."""
        return asdict(self)
