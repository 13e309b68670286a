"""Weight pruning while a Trainer trains: more and more weights become zero, and stay so."""

from __future__ import annotations

import logging
import math

from hf_compress.ground.errors import UsageError
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.loop import excluded_layers
from hf_compress.steps.pruning.remove.weights import WeightPruner, sparsity
from hf_compress.steps.pruning.score.scoring import require_weights_suffice
from hf_compress.training.callbacks import HoldMasks

logger = logging.getLogger(__name__)


class GradualPruning(HoldMasks):
    """Prunes in rounds of `amount` up to `target.sparsity`, evenly spread over a part of the training.

    With `iterative=False` there is one round, at `start`. The rounds choose the same weights as the `prune` step. What
    was the best checkpoint before a round is no longer a candidate for `load_best_model_at_end`.

    Args:
        config: `max_drop` and `recovery` have no meaning here.
        start: fraction of the training steps at which the first round comes.
        end: fraction at which the last one comes.

    Raises:
        UsageError: the granularity is not `weight`, the criterion needs images, no sparsity is named, or `start` and
            `end` are not in order.
    """

    def __init__(self, config: PruneSection, start: float = 0.0, end: float = 0.5):
        super().__init__(())
        if config.granularity != "weight":
            raise UsageError(
                f"a training goes on with the weights its optimizer has, so granularity '{config.granularity}' is for "
                "the step 'prune': use granularity='weight' here"
            )
        require_weights_suffice(config)
        if config.iterative if config.target is None else config.target.metric != "sparsity":
            raise UsageError(
                "pruning in a training has no accuracy to stop at: name the final sparsity in 'target', "
                "or set iterative=False for a single round of 'amount'"
            )
        if not 0 <= start <= end <= 1:
            raise UsageError(
                f"pruning cannot start at {start} and end at {end} of the training: 0 <= start <= end <= 1"
            )
        self.config = config
        self.start, self.end = start, end
        self.final = config.target.value if config.target else config.amount
        self.rounds = math.ceil(self.final / config.amount - 1e-9) if config.iterative else 1

    def amount_at(self, progress: float) -> float:
        """Return the sparsity that is due when the fraction `progress` of the training is done."""
        if progress < self.start:
            return 0.0
        if progress >= self.end or self.rounds == 1:
            return self.final
        past = (progress - self.start) / (self.end - self.start) * (self.rounds - 1)
        return min(self.final, (1 + math.floor(past + 1e-9)) * self.config.amount)

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.model = model
        self.pruner = WeightPruner(model, self.config, excluded_layers(model, self.config.exclude))
        self.weights = self.pruner.weights(model)
        self.parameters = list(self.weights.values())
        self.amount = self.amount_at((state.global_step - 1) / state.max_steps) if state.global_step else 0.0
        self.set_masks()

    def on_step_begin(self, args, state, control, **kwargs):
        amount = self.amount_at(state.global_step / state.max_steps)
        if amount > self.amount:
            self.pruner.prune(self.model, amount)
            self.amount = amount
            self.set_masks()
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_train_end(self, args, state, control, **kwargs):
        if self.amount < self.final:
            logger.warning(
                "the training ended at step %d of %d, before the last round of pruning: sparsity is %.4f, not %.4f",
                state.global_step,
                state.max_steps,
                self.sparsity,
                self.final,
            )

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that is zero."""
        return sparsity(self.weights)
