"""The `rewrite` step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_compress.steps.base import Step, StepResult, register_step
from hf_compress.steps.rewriting import kinds  # noqa: F401  (registers them)
from hf_compress.steps.rewriting.base import Layer, Rewriting, Unsuitable, register_rewrite
from hf_compress.steps.rewriting.config import REWRITINGS, RewriteConfig
from hf_compress.training.context import Context

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["REWRITINGS", "Layer", "Rewrite", "RewriteConfig", "Rewriting", "Unsuitable", "register_rewrite"]


@register_step("rewrite")
class Rewrite(Step[RewriteConfig]):
    """Puts cheaper layers in place of others, initialised to do the same; without any training."""

    Config = RewriteConfig
    alone = True

    def apply(self, model: PreTrainedModel, context: Context) -> StepResult:
        from hf_compress.steps.rewriting.rewriting import rewrite

        return rewrite(model, context, self.config)
