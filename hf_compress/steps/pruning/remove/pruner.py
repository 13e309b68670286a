"""What every granularity of pruning can do: name its groups, and take units out of them."""

from __future__ import annotations

from abc import ABC, abstractmethod

from transformers import PreTrainedModel

from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.removal import Kept
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.scoring import Scores, score
from hf_compress.steps.pruning.tracing.groups import Group


class Pruner(ABC):
    """Prunes one model and copies of it, at the start of which amounts are fractions.

    Attributes:
        protected: layers that stay whole, with the reason.
        least: what goes at once, in words.
    """

    config: PruneSection
    protected: dict[str, str]
    least = "one step of 'round_to'"

    @abstractmethod
    def groups(self, model: PreTrainedModel) -> list[Group]:
        """Return the groups of `model`, pruned or not, that may lose units."""

    @abstractmethod
    def remove(self, model: PreTrainedModel, scores: Scores, amount: float) -> Kept:
        """Take out the units with the lowest scores, in place, until the fraction `amount` of the unpruned is gone.

        Args:
            scores: of the groups of this model, in their order.

        Returns:
            Which indices of its tensors are left, where they are fewer than before.

        Raises:
            RunError: the pruned model does not run.
        """

    @abstractmethod
    def sparsity(self, model: PreTrainedModel) -> float:
        """Return the fraction of the units that is gone."""

    def scores(self, model: PreTrainedModel, amount: float, calibration: Calibration | None = None) -> Scores:
        """Return the importance of the units of every group, shape (units,), by the group's name.

        Args:
            amount: no more of the unpruned model will go.
            calibration: None where there are no images.

        Raises:
            UsageError: images are needed.
        """
        return score(model, self.groups(model), self.config, calibration)

    def prune(self, model: PreTrainedModel, amount: float, calibration: Calibration | None = None) -> None:
        """Score the units of `model` and remove as many as `amount` says, in place."""
        self.remove(model, self.scores(model, amount, calibration), amount)
