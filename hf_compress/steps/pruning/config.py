"""Section `prune` of a recipe."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hf_compress.sections.base import MOST, Section, TrainingConfig
from hf_compress.sections.distillation import LossConfig
from hf_compress.steps.pruning.score.criteria import CRITERIA

Scope = Literal["layer", "global", "cost", "damage"]
WITHOUT_ORDER = {"l1", "l2", "random", "taylor", "obs"}  # criteria of other packages may read `n`


class PruningTarget(Section):
    """Where to stop: the fraction of the unpruned model that must be gone, or the quality that must be left."""

    sparsity: float | None = Field(
        None, gt=0, lt=1, description="Weights that are zero, or channels or blocks that are removed."
    )
    parameters: float | None = Field(
        None, gt=0, lt=1, description="Parameters removed (granularity `channel` or `block`)."
    )
    macs: float | None = Field(None, gt=0, lt=1, description="MACs removed (granularity `channel` or `block`).")
    latency: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Time saved, measured beside the unpruned model with the batch size, the threads and the first "
        "runtime of `measure` (granularity `channel` or `block`).",
    )
    accuracy: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Largest loss of the task's deciding metric on validation images (0.01: one point), before any "
        "training: the smallest model within it is searched, in place of `amount`; needs `iterative: false`.",
    )

    @model_validator(mode="after")
    def _exactly_one(self):
        if sum(value is not None for value in vars(self).values()) != 1:
            raise ValueError(f"name exactly one of {', '.join(type(self).model_fields)}")
        return self

    @property
    def metric(self) -> str:
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)

    @property
    def value(self) -> float:
        return getattr(self, self.metric)


class RecoveryConfig(LossConfig):
    """Training after each pruning round: distilled from the unpruned model, or with the labels alone (`ce`)."""

    epochs: int = Field(1, ge=0, le=MOST, description="0 prunes without training.")
    learning_rate: float | None = Field(
        None, gt=0, description="None: as much as the pruned model bears, which is measured; for `adam` and `adamw`."
    )
    loss: str = Field("kl_ce", description="A distillation loss from the unpruned model, or `ce` (labels only).")
    temperature: float = Field(2.0, gt=0, description=LossConfig.model_fields["temperature"].description)
    average: float = Field(0.999, ge=0, lt=1, description=TrainingConfig.model_fields["average"].description)

    @model_validator(mode="after")
    def _rate_of_sgd(self):
        if self.optimizer == "sgd" and self.learning_rate is None and self.epochs:
            raise ValueError("with optimizer sgd, learning_rate must be named: it is measured for adam and adamw")
        return self


class PruneSection(Section):
    """The `prune` step."""

    importance: str = Field(
        "l1",
        description="`l1`, `l2`, `ln` (order `n`), `random`, or a registered name; by calibration images `taylor` and "
        "`obs` (what others can make up for). Blocks are measured instead.",
    )
    n: float = Field(2.0, gt=0, description="Order of the norm `ln`.")
    granularity: Literal["weight", "channel", "block", "n:m"] = Field(
        "channel",
        description="`weight` zeroes weights; `n:m` does so in `pattern`, in one shot; `channel` removes channels, "
        "so that the model is smaller; `block` drops whole residual blocks, so that it is less deep.",
    )
    pattern: str = Field(
        "2:4",
        description="With granularity `n:m`, which it stands for where none is named, in quotes: at most n weights of "
        "each m neighbours along the input dimension are left.",
    )
    layout: Literal["free", "config"] = Field(
        "free",
        description="With granularity `channel`: `config` prunes uniformly within each width that the architecture's "
        "own config can express, so that the model loads without this package; `free` prunes each layer by itself.",
    )
    dim: int | None = Field(
        None, ge=0, description="With granularity `weight`: zero whole slices along this dimension (as LnStructured)."
    )
    scope: Scope = Field(
        "layer",
        description="Compare importance in a layer, across all, or across all by what a channel costs of the "
        "`budget` (granularity `channel`): `cost` as the criterion tells it, `damage` in proportion to what the "
        "outputs lose when channels of a layer go, as it is measured.",
    )
    budget: Literal["macs", "latency"] = Field(
        "macs",
        description="What the scopes `cost` and `damage` divide importance by: the MACs of a channel, or its "
        "milliseconds, measured layer by layer with the batch size and the threads of `measure`.",
    )
    amount: float = Field(0.1, gt=0, lt=1, description="Fraction pruned in a round, of the unpruned model.")
    iterative: bool = Field(True, description="Prune, train, evaluate, and again; false prunes once.")
    target: PruningTarget | None = Field(None, description="Stop here; without target, `max_drop` alone decides.")
    max_drop: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Largest loss of the task's deciding metric on validation images that a round may have after its "
        "training, against the unpruned model (0.01: one point of accuracy).",
    )
    floor: float = Field(
        0.1, ge=0, lt=1, description="Fraction of each layer that always stays; of all blocks, where these go."
    )
    round_to: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        8,
        description="Pruned widths are multiples of this (granularity `channel`); `auto` measures which is fastest.",
    )
    calibration: int = Field(
        256, ge=1, le=MOST, description="Training images by which `repair`, and a criterion that needs images, go."
    )
    repair: Literal["least_squares", "batch_norm", "none"] = Field(
        "least_squares",
        description="What is done before training: `least_squares` solves each layer's weights anew, so that it "
        "answers to the calibration images as in the unpruned model, and is kept where that holds for images it did "
        "not see; `batch_norm` re-estimates the statistics of batch norms.",
    )
    sensitivity: str | None = Field(
        None, description="CSV of `hf-compress sensitivity`: layers lose as much as each bears, instead of alike."
    )
    exclude: list[str] = Field([], description="Layers to leave alone, by name with wildcards: `encoder.stages.0.*`.")
    recovery: RecoveryConfig = Field(default_factory=RecoveryConfig, description="Training after each round.")

    @model_validator(mode="before")
    @classmethod
    def _a_pattern_is_of_n_of_m(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("pattern") and values.get("granularity") is None:
            return values | {"granularity": "n:m"}
        return values

    @field_validator("pattern", mode="before")
    @classmethod
    def _two_numbers(cls, pattern: Any) -> str:
        if isinstance(pattern, int):
            raise ValueError('put the pattern in quotes, as in pattern: "2:4"; YAML reads 2:4 as a number')
        match = re.fullmatch(r"(\d+):(\d+)", str(pattern))
        if not match or not 0 < int(match[1]) < int(match[2]):
            raise ValueError(f"'{pattern}' is not n:m with 0 < n < m, as in \"2:4\"")
        return pattern

    @field_validator("importance")
    @classmethod
    def _known(cls, name: str) -> str:
        return CRITERIA.known(name)

    @model_validator(mode="after")
    def _consistent(self):
        if self.counts_cost and self.granularity != "channel":
            raise ValueError(f"zeroed weights save no MACs: scope '{self.scope}' needs granularity 'channel'")
        if self.layout == "config" and (self.scope != "layer" or self.sensitivity):
            raise ValueError("layout 'config' prunes uniformly: it needs scope 'layer', and no sensitivity")
        if self.granularity == "weight" and self.target and self.target.metric not in ("sparsity", "accuracy"):
            raise ValueError(
                f"zeroed weights do not change {self.target.metric}; use target.sparsity, or granularity 'channel'"
            )
        if self.target and self.target.metric == "accuracy" and self.iterative:
            raise ValueError(
                "target.accuracy searches how much goes in one shot: set iterative: false; in rounds, max_drop says "
                "what may be lost"
            )
        self._require_above_floor()
        if self.sensitivity and (self.scope != "layer" or self.dim is not None):
            raise ValueError("sensitivity decides what each layer loses; leave out scope and dim")
        if self.dim is not None and self.scope == "global":
            raise ValueError("slices along dim are compared within a layer; use scope 'layer'")
        return self

    @property
    def counts_cost(self) -> bool:
        """Whether a channel competes by what it costs."""
        return self.scope in ("cost", "damage")

    def idle(self) -> dict[str, str]:
        """Return the options that do nothing beside the others."""
        found = {}
        if self.importance in WITHOUT_ORDER:
            found["n"] = f"it is the order of importance 'ln', not of '{self.importance}'"
        if self.granularity != "n:m":
            found["pattern"] = f"it is of granularity 'n:m', not of '{self.granularity}'"
        if self.granularity != "weight":
            found["dim"] = f"slices of weights are of granularity 'weight', not of '{self.granularity}'"
        if self.granularity != "channel":
            found["round_to"] = found["layout"] = (
                f"widths are pruned by granularity 'channel', not by '{self.granularity}'"
            )
        if not self.counts_cost:
            found["budget"] = f"scopes 'cost' and 'damage' divide importance by it, not scope '{self.scope}'"
        if self.granularity == "n:m" or not self.iterative:
            found["max_drop"] = "it judges rounds, and all is pruned at once"
        if self.granularity == "n:m":
            found |= dict.fromkeys(
                ("amount", "target", "floor", "scope", "sensitivity"), "the pattern says how much goes"
            )
            if self.iterative:
                found["iterative"] = "a pattern is pruned at once"
        elif self.target and not self.iterative:
            found["amount"] = "the target says how much goes, and all is pruned at once"
        if self.granularity == "block":
            found |= dict.fromkeys(("importance", "scope", "sensitivity"), "what a block is worth is measured")
        return found

    def _require_above_floor(self) -> None:
        asked = self.target.sparsity if self.target else None if self.iterative else self.amount
        if asked is not None and asked > 1 - self.floor + 1e-9:
            key = "target.sparsity" if self.target else "amount"
            raise ValueError(
                f"{key} {asked:g} leaves less than the floor {self.floor:g} of each layer: lower one of them"
            )

    @property
    def n_of_m(self) -> tuple[int, int]:
        """The two numbers of `pattern`."""
        n, m = self.pattern.split(":")
        return int(n), int(m)
