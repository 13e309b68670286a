"""Section `distill` of a recipe."""

from typing import Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from hf_compress.ground.registry import Registry
from hf_compress.sections.base import Section, TrainingConfig

LOSSES: Registry = Registry("distillation loss", "hf_compress.losses")
READERS = {
    "mse_weight": ("mse_ce",),
    "ce_weight": ("mse_ce", "kl_ce"),
    "temperature": ("kl", "kl_ce", "dkd", "dist"),
    "alpha": ("dkd",),
    "beta": ("dkd", "dist"),
    "gamma": ("dist",),
}
OWN = {"mse", "ce", "hints", "attention"}.union(*READERS.values())  # losses of other packages may read any option


class LossOptions(Section):
    """A loss by name; each option says which losses read it."""

    loss: str = Field(
        "mse",
        description="`mse`, `mse_ce`, `kl`, `kl_ce`, `dkd`, `dist`, `ce`, `hints`, `attention`, or a registered name.",
    )
    mse_weight: float = Field(1.0, ge=0, description="Weight of the distance to the teacher in `mse_ce`.")
    ce_weight: float = Field(
        1.0, ge=0, description="Weight of the cross-entropy with the labels in `mse_ce` and `kl_ce`."
    )
    temperature: float = Field(4.0, gt=0, description="Temperature of `kl`, `kl_ce`, `dkd` and `dist`.")
    alpha: float = Field(1.0, ge=0, description="Weight of the target class in `dkd`.")
    beta: float = Field(
        1.0,
        ge=0,
        description="Weight of the other classes in `dkd`, of the relations of an image's classes in `dist`.",
    )
    gamma: float = Field(1.0, ge=0, description="Weight of the relations of a class's images in `dist`.")
    standardize: bool = Field(
        False,
        description="Compare logits that have mean 0 and deviation 1 over the classes, in `mse`, `mse_ce`, `kl`, "
        "`kl_ce`, `dkd` and `dist`.",
    )
    layers: dict[str, str] = Field(
        {}, description="Student's layer: teacher's layer, by module name; for `hints` and `attention`."
    )

    @field_validator("loss")
    @classmethod
    def _known(cls, name: str) -> str:
        return LOSSES.known(name)

    def idle(self) -> dict[str, str]:
        """Return the options that the loss does not read."""
        return {
            option: f"it is of loss {' and '.join(readers)}, not of {self.loss}"
            for option, readers in READERS.items()
            if self.loss in OWN and self.loss not in readers
        }

    @model_validator(mode="after")
    def _layers_where_compared(self):
        compares_layers = LOSSES.get(self.loss).compares_layers
        if compares_layers and not self.layers:
            raise ValueError(f"loss '{self.loss}' compares layers: name them in layers, as student's: teacher's")
        if self.layers and not compares_layers:
            raise ValueError(f"loss '{self.loss}' compares outputs: leave out layers, or use hints or attention")
        return self

    @model_validator(mode="after")
    def _standardized_where_compared(self):
        if self.standardize and not LOSSES.get(self.loss).standardizes:
            raise ValueError(f"loss '{self.loss}' compares no standardised logits: leave out standardize, or use kl")
        return self


class LossTerm(LossOptions):
    """One of several losses."""

    loss: str = Field(description=LossOptions.model_fields["loss"].description)
    weight: float = Field(1.0, ge=0, description="Factor of this loss in the sum.")


class LossConfig(LossOptions, TrainingConfig):
    """Training against a teacher: one loss with its options, or a weighted sum of several."""

    losses: list[LossTerm] = Field([], description="Several losses, instead of `loss` and its options.")

    @model_validator(mode="before")
    @classmethod
    def _one_or_several(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("losses"):
            fields = {name: cls.model_fields[name] for name in LossOptions.model_fields if name in values}
            beside = [name for name, field in fields.items() if values[name] != field.default]
            if beside:
                raise ValueError(f"with several losses, {beside[0]} belongs into an item of losses")
        return values

    @model_validator(mode="after")
    def _compiled_layers_are_hidden(self):
        if self.compile and any(term.layers for term in self.terms):
            raise ValueError("losses that compare layers look into the models: leave out compile")
        return self

    @model_serializer(mode="wrap")
    def _as_written(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        left_out = LossOptions.model_fields if self.losses else {"losses"}
        return {name: value for name, value in plain(self).items() if name not in left_out}

    def idle(self) -> dict[str, str]:
        """Return the options that the loss does not read; those of several losses stand in their items."""
        return {} if self.losses else super().idle()

    @property
    def terms(self) -> list[LossTerm]:
        """The losses whose weighted sum is trained; one that stands by itself is a list of one."""
        own = {name: getattr(self, name) for name in LossOptions.model_fields}  # checked here, by other defaults
        return self.losses or [LossTerm.model_construct(**own)]

    @property
    def labels_only(self) -> bool:
        """Whether nothing is learnt from the teacher."""
        return all(term.loss == "ce" for term in self.terms)

    def on_labels(self) -> Self:
        """Return the same training, in which nothing is learnt from the teacher."""
        defaults = {name: type(self).model_fields[name].default for name in LossOptions.model_fields}
        return self.model_copy(update=defaults | {"loss": "ce", "losses": [], "layers": {}})


class DistillSection(LossConfig):
    """The `distill` step: the student learns from the recipe's teacher."""
