"""The `prune` step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hf_compress.steps.base import Step, StepResult, register_step
from hf_compress.steps.pruning.config import CRITERIA, PruneSection
from hf_compress.steps.pruning.score.criteria import register_importance
from hf_compress.training.context import Context

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from hf_compress.models.load import LoadedModel

__all__ = ["CRITERIA", "Prune", "PruneSection", "register_importance"]


@register_step("prune")
class Prune(Step[PruneSection]):
    """Zeroes weights, or removes channels or blocks, in one shot or in rounds with training between."""

    Config = PruneSection

    @property
    def distils(self) -> bool:
        return self.config.recovery.epochs > 0 and not self.config.recovery.labels_only

    def on_labels(self) -> Prune:
        return Prune(self.config.model_copy(update={"recovery": self.config.recovery.on_labels()}))

    def foresee(self, student: Callable[[], LoadedModel]) -> None:
        if self.config.target is not None:
            from hf_compress.steps.pruning.loop import foresee

            foresee(student(), self.config)

    def apply(self, model: PreTrainedModel, context: Context) -> StepResult:
        from hf_compress.steps.pruning.loop import prune_model

        return prune_model(model, context, self.config)
