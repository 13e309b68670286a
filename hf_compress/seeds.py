"""Which random numbers a run uses for what."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from hf_compress.recipe import Recipe


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
        """Derive all from the recipe's seed."""
        seed, members = recipe.seed, recipe.teacher.members if recipe.teacher else []
        return cls(seed, seed + 1, [seed if number == 0 else seed + 1 + number for number in range(len(members))])

    @property
    def facts(self) -> dict[str, Any]:
        """What the report says of them."""
        return asdict(self)
