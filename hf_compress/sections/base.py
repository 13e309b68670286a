"""What every section of a recipe is made of: strict pydantic models, and errors that name the key."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from hf_compress.ground.errors import UsageError, shown
from hf_compress.ground.registry import did_you_mean

MOST = 1_000_000  # of whatever is counted
MOST_OF_A_SECTION = 60  # of its characters an error repeats
UNION_TAGS = {"str", "float", "constrained-int"}  # that pydantic adds to the place of an error, and no user wrote


class Section(BaseModel):
    """A part of a recipe. Unknown keys are errors, and so are truth values and infinity where numbers belong.

    Null is the same as leaving a key out, unless it is a value of that key.
    """

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_unsets(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        never_null = {name for name, field in cls.model_fields.items() if type(None) not in get_args(field.annotation)}
        return {key: value for key, value in values.items() if value is not None or key not in never_null}

    def idle(self) -> dict[str, str]:
        """Return the options that do nothing beside the values of others, each with the reason."""
        return {}

    @model_validator(mode="after")
    def _does_what_it_says(self):
        for option, reason in self.idle().items():
            if getattr(self, option) != type(self).model_fields[option].get_default(call_default_factory=True):
                raise ValueError(f"{option} does nothing here: {reason}")
        return self

    @field_validator("*", mode="before")
    @classmethod
    def _no_number_is_true(cls, value: Any, info: ValidationInfo) -> Any:
        values = value if isinstance(value, list) else [value]
        if any(isinstance(each, bool) for each in values) and not _holds_bool(cls.model_fields[info.field_name]):
            raise ValueError("true and false are no value of this key")
        return value


class TrainingConfig(Section):
    """How a model is trained. The defaults are those of the founding article: Adam, learning rate 1e-4, batch 32."""

    epochs: int = Field(20, ge=1, le=MOST, description="Passes over the training images.")
    minutes: float | None = Field(
        None,
        gt=0,
        le=MOST,
        description="Time for the training, evaluations included: what fits is measured first; `epochs` at most.",
    )
    learning_rate: float = Field(1e-4, gt=0)
    batch_size: int = Field(32, ge=1, le=MOST)
    optimizer: Literal["adam", "adamw", "sgd"] = Field("adam", description="`sgd` has Nesterov momentum 0.9.")
    weight_decay: float = Field(0.0, ge=0)
    scheduler: Literal["constant", "linear", "cosine"] = Field("linear", description="Learning rate after warm-up.")
    warmup: float = Field(0.0, ge=0, lt=1, description="Fraction of the steps in which the learning rate rises.")
    max_grad_norm: float | None = Field(
        1.0,
        ge=0,
        description="Gradients are scaled down to this norm, all parameters together; 0 or null leaves them.",
    )
    average: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Evaluate and keep a moving average of the weights, of which this share stays in a step (0.999). "
        "0: the last ones.",
    )
    freeze_batch_norms: bool = Field(
        False,
        description="Batch norms keep their statistics, as those of a few images say little of all; scales and shifts "
        "are trained.",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="Autocast of forward and backward passes.")
    compile: bool = Field(
        False,
        description="Compile the models with torch.compile: takes minutes, then steps are shorter; for long ones.",
    )
    on_nan: Literal["stop", "retry"] = Field(
        "stop",
        description="When the loss is not finite: `retry` halves the learning rate and goes on from the last good "
        "epoch, at most three times.",
    )

    @field_validator("max_grad_norm")
    @classmethod
    def _null_is_written_as_zero(cls, value: float | None) -> float:
        return value or 0.0


def named(value: Any, key: str) -> Any:
    """A string stands for a section in which it is the value of `key`."""
    return {key: value} if isinstance(value, str) else value


def shorthand(section: Any, key: str) -> BeforeValidator:
    """Return what lets a string stand for a section in which it is the value of `key`, and says so in the schema."""
    return BeforeValidator(partial(named, key=key), json_schema_input_type=str | section)


S = TypeVar("S", bound=Section)


def validate(section: type[S], values: Any, path: str = "") -> S:
    """Build `section` from plain values as read from YAML; `path` is its place in the recipe (`steps.0.prune`).

    Raises:
        UsageError: one sentence with the key path, the value and the nearest valid key.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        first, *_ = sorted(error.errors(), key=lambda each: each["type"] != "extra_forbidden")  # a misspelt key
        raise UsageError(sentence(section, first, path)) from None


def sentence(section: type[BaseModel], error: Mapping[str, Any], path: str) -> str:
    """Say in one sentence what pydantic found wrong in the part of the recipe at `path`."""
    location = [part for part in error["loc"] if part not in UNION_TAGS]
    key = shown(".".join([path, *map(str, location)] if path else map(str, location)) or "the recipe")
    value = error["input"]
    if error["type"] == "extra_forbidden":
        owner = _section_at(section, location[:-1])
        written = "" if _is_long_section(value) else f" (value {shown(value)})"
        return f"unknown key {key}{written}{did_you_mean(str(location[-1]), owner.model_fields)}"
    if error["type"] == "missing":
        return f"{key} is missing: add it to the recipe"
    if error["type"] == "literal_error":
        expected = [choice.strip("'") for choice in error["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return f"{key} cannot be {shown(value)}{did_you_mean(str(value), expected)}"
    wrong = "" if _is_long_section(value) else f" cannot be {shown(value)}"
    if error["type"] == "list_type":
        return f"{key}{wrong}: it is a list, also of one thing: put brackets round it, [...]"
    reason = error["msg"].removeprefix("Value error, ")
    return f"{key}{wrong}: {reason[0].lower()}{reason[1:]}"


def _is_long_section(value: Any) -> bool:
    """Whether a value is a section, or a list of such, of which nobody wants to read all."""
    return isinstance(value, dict | list | BaseModel) and len(repr(value)) > MOST_OF_A_SECTION


def _holds_bool(field: FieldInfo) -> bool:
    return field.annotation is bool or bool in get_args(field.annotation)


def _section_at(section: type[BaseModel], location: list) -> type[BaseModel]:
    for part in location:
        if part in section.model_fields:
            section = _nested_section(section.model_fields[part].annotation) or section
    return section


def _nested_section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_nested_section, get_args(annotation))), None)
