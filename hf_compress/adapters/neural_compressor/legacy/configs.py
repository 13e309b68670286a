"""The configs of the old vocabulary, checked when they are built."""

from __future__ import annotations

import re
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from torch import nn

from hf_compress.config import Section, validate
from hf_compress.errors import UsageError
from hf_compress.registry import did_you_mean
from hf_compress.steps.pruning.blocks import Blocks, LowestInGroup, Pattern

GRADIENT_TYPES = ("snip_momentum", "snip", "gradient")
PRUNING_TYPES = ("magnitude", "pattern_lock", *GRADIENT_TYPES)


class PrunerOptions(Section):
    """One entry of `pruning_configs`, the others filled in from the global options."""

    target_sparsity: float = Field(0.9, ge=0, lt=1)
    pruning_type: str = "snip_momentum"
    pattern: str = "4x1"
    op_names: list[str] = Field([])
    excluded_op_names: list[str] = Field([])
    start_step: int = Field(0, ge=0)
    end_step: int = Field(0, ge=0)
    pruning_scope: Literal["global", "local"] = "global"
    pruning_frequency: int = Field(1, ge=1)
    min_sparsity_ratio_per_op: float = 0.0
    max_sparsity_ratio_per_op: float = Field(0.98, ge=0, lt=1)
    sparsity_decay_type: Literal["exp", "cos", "linear", "cube"] = "exp"
    pruning_op_types: list[str] = Field(["Conv", "Linear"])

    @field_validator("pruning_type")
    @classmethod
    def _known_type(cls, name: str) -> str:
        if name.endswith("_progressive"):
            raise ValueError(
                f"progressive masks are not offered; '{name.removesuffix('_progressive')}' prunes whole blocks at once"
            )
        if name in ("block_mask", "retrain_free", "sparse_gpt"):
            raise ValueError("it was made for language models; 'magnitude' or 'snip_momentum' prune vision models")
        if name not in PRUNING_TYPES:
            raise ValueError(f"there is no such type{did_you_mean(name, PRUNING_TYPES)}")
        return name

    @field_validator("pattern")
    @classmethod
    def _known_pattern(cls, name: str) -> str:
        parse_pattern(name)
        return name

    @field_validator("min_sparsity_ratio_per_op")
    @classmethod
    def _no_minimum(cls, value: float) -> float:
        if value:
            raise ValueError("a least sparsity a layer is not offered; scope 'local' prunes every layer alike")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.end_step < self.start_step:
            raise ValueError(f"end_step {self.end_step} comes before start_step {self.start_step}")
        if self.pruning_type in GRADIENT_TYPES and self.end_step == 0:
            raise ValueError(f"'{self.pruning_type}' needs gradients, which step 0 has not: set end_step above 0")
        pattern = parse_pattern(self.pattern)
        if isinstance(pattern, LowestInGroup) and self.target_sparsity > pattern.n / pattern.m:
            raise ValueError(f"pattern {self.pattern} allows a target_sparsity of {pattern.n / pattern.m:g} at most")
        return self


class WeightPruningConfig:
    """What to prune and when; every option may be given for all layers, or in an entry of `pruning_configs`.

    Args:
        pruning_configs: one dict of options for each set of layers; what is missing comes from the other arguments.
        target_sparsity: fraction of zeros at `end_step`.
        pruning_type: `magnitude`, `snip_momentum`, `snip`, `gradient`, or `pattern_lock` (keeps the zeros there are).
        pattern: `NxM` blocks (N outputs, M inputs), `channelx1`, `1xchannel`, or `N:M` (N of M neighbours go).
        op_names: regular expressions, searched in the names of layers; empty for all layers but the classifier.
        excluded_op_names: likewise, to leave alone.
        start_step: optimizer step of the first pruning.
        end_step: of the last; equal to `start_step` for one shot.
        pruning_scope: `global` compares all layers of the entry, `local` each within itself.
        pruning_frequency: prune every so many steps.
        min_sparsity_ratio_per_op: 0 only.
        max_sparsity_ratio_per_op: no layer loses more than this fraction.
        sparsity_decay_type: how the sparsity grows: `exp`, `cos`, `linear`, `cube`.
        pruning_op_types: parts of the names of layer types.

    Raises:
        UsageError: an option is wrong, or has no counterpart here; the message says why.
    """

    def __init__(
        self,
        pruning_configs: list[dict[str, Any]] | None = None,
        target_sparsity: float = 0.9,
        pruning_type: str = "snip_momentum",
        pattern: str = "4x1",
        op_names: list[str] | None = None,
        excluded_op_names: list[str] | None = None,
        start_step: int = 0,
        end_step: int = 0,
        pruning_scope: str = "global",
        pruning_frequency: int = 1,
        min_sparsity_ratio_per_op: float = 0.0,
        max_sparsity_ratio_per_op: float = 0.98,
        sparsity_decay_type: str = "exp",
        pruning_op_types: list[str] | None = None,
        **others: Any,
    ):
        given = locals()
        options = {name: given[name] for name in PrunerOptions.model_fields if given[name] is not None} | others
        self.pruners = [
            validate(PrunerOptions, options | entry, "WeightPruningConfig") for entry in pruning_configs or [{}]
        ]


class KnowledgeDistillationLossConfig:
    """The loss of the old vocabulary: `loss_weights[0]` times the loop's loss plus `loss_weights[1]` times the
    distance to the teacher, on logits divided by the temperature, times the squared temperature.

    Args:
        temperature: divides the logits.
        loss_types: of the loop's own loss (`CE` or `MSE`, computed by the loop), and of the distance: `CE` (soft
            cross-entropy), `KL` (mean over batch and classes), or `MSE` (of the logits, not of the softmax outputs).
        loss_weights: two numbers that sum to 1.

    Raises:
        UsageError: a value is wrong.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        loss_types: list[str] | tuple[str, ...] = ("CE", "CE"),
        loss_weights: list[float] | tuple[float, ...] = (0.5, 0.5),
    ):
        if len(loss_types) != 2 or loss_types[0] not in ("CE", "MSE") or loss_types[1] not in ("CE", "KL", "MSE"):
            raise UsageError(
                f"'KnowledgeDistillationLossConfig.loss_types' cannot be {loss_types!r}: name CE or MSE, and then "
                "CE, KL or MSE"
            )
        if len(loss_weights) != 2 or min(loss_weights) < 0 or abs(sum(loss_weights) - 1) > 1e-9:
            raise UsageError(
                f"'KnowledgeDistillationLossConfig.loss_weights' cannot be {loss_weights!r}: two numbers that sum to 1"
            )
        if temperature <= 0:
            raise UsageError(f"'KnowledgeDistillationLossConfig.temperature' cannot be {temperature!r}: above 0")
        self.temperature = temperature
        self.loss_types = loss_types
        self.loss_weights = loss_weights


class DistillationConfig:
    """A teacher and how to learn from it.

    Args:
        teacher_model: sees the inputs that the loop hands to `on_after_compute_loss`.
        criterion: the loss.
        optimizer: not used, as before: the loop has its own.

    Raises:
        UsageError: there is no teacher.
    """

    def __init__(
        self,
        teacher_model: nn.Module | None = None,
        criterion: KnowledgeDistillationLossConfig | None = None,
        optimizer: Any = None,
    ):
        if not isinstance(teacher_model, nn.Module):
            raise UsageError(f"'DistillationConfig.teacher_model' cannot be {teacher_model!r}: pass a torch module")
        self.teacher_model = teacher_model
        self.criterion = criterion or KnowledgeDistillationLossConfig()
        self.optimizer = optimizer


class _Unavailable:
    """A config without counterpart."""

    reason: str

    def __init__(self, *args: Any, **kwargs: Any):
        raise UsageError(f"{type(self).__name__} is not offered: {self.reason}")


class IntermediateLayersKnowledgeDistillationLossConfig(_Unavailable):
    """Raises a UsageError."""

    reason = "classifiers learn from the teacher's outputs here; use KnowledgeDistillationLossConfig"


class SelfKnowledgeDistillationLossConfig(_Unavailable):
    """Raises a UsageError."""

    reason = "it needs classifiers in the middle of the model; use KnowledgeDistillationLossConfig with a teacher"


class QuantizationAwareTrainingConfig(_Unavailable):
    """Raises a UsageError."""

    reason = "Neural Compressor 3.10 quantizes after training: convert the trained model with its StaticQuantConfig"


def parse_pattern(name: str) -> Pattern:
    """Return the pattern of a name like `4x1`, `channelx1` or `2:4`.

    Raises:
        ValueError: there is no such pattern.
    """
    if blocks := re.fullmatch(r"(channel|[1-9]\d*)x(channel|[1-9]\d*)", name):
        height, width = (None if side == "channel" else int(side) for side in blocks.groups())
        return Blocks(height, width)
    group = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", name)
    if group and int(group[1]) < int(group[2]):
        return LowestInGroup(int(group[1]), int(group[2]))
    if "mha" in name:
        raise ValueError("attention heads are removed by a recipe with granularity 'channel'")
    raise ValueError("patterns are NxM, channelx1, 1xchannel, or N:M with N below M")
