"""The importance criteria by name. The units with the lowest scores are pruned first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hf_compress.ground.registry import Registry


@dataclass(frozen=True)
class ImportanceCriterion:
    """A registered criterion.

    Attributes:
        function: `function(weight, dim, n) -> scores`: one an element in the weight's shape, or with a `dim` one a
            slice along it, of shape (weight.shape[dim],); `n` is the order of the norm in the recipe. With
            `needs_images`, `function(model, groups, calibration) -> {group.name: scores}`, scores (group.units,).
        needs_images: whether it looks at gradients or activations, and so at calibration images.
        compares: whether scores of one group compare with those of another, as parts of one loss. Where they do not,
            units of several groups are ranked by their score relative to the group's mean.
    """

    function: Callable
    needs_images: bool = False
    compares: bool = False


CRITERIA: Registry[ImportanceCriterion] = Registry("importance", "hf_compress.importance")


def register_importance(name: str, needs_images: bool = False, compares: bool = False) -> Callable:
    """Return a decorator that adds a criterion under `name`; see `ImportanceCriterion`."""

    def store(function: Callable) -> Callable:
        CRITERIA.register(name)(ImportanceCriterion(function, needs_images, compares))
        return function

    return store
