"""Layers that a rewrite put in place of others, as plain data: recorded from one model, built in another."""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, TypeAdapter, ValidationError
from torch import nn

from hf_compress.ground.errors import RunError

Rewrites = dict[str, dict[str, Any]]
Count = Annotated[int, Field(strict=True, ge=1)]
Margin = Annotated[int, Field(strict=True, ge=0)]


class _Layer(BaseModel):
    model_config = ConfigDict(extra="forbid")

    def build(self, **placement: Any) -> nn.Module:
        options = self.model_dump(exclude={"type"}) | (placement if self.type == "Conv2d" else {})
        return getattr(nn, self.type)(**options)


class _Convolution(_Layer):
    type: Literal["Conv2d"]
    in_channels: Count
    out_channels: Count
    kernel_size: tuple[Count, Count]
    stride: tuple[Count, Count]
    padding: tuple[Margin, Margin] | Literal["same", "valid"]
    dilation: tuple[Count, Count]
    groups: Count
    bias: StrictBool
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"]


class _Padding(_Layer):
    type: Literal["ZeroPad2d"]
    padding: tuple[Margin, Margin, Margin, Margin]


class _Activation(_Layer):
    type: Literal["ReLU", "ReLU6", "Hardsigmoid"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: str
    layers: list[Annotated[_Convolution | _Padding | _Activation, Field(discriminator="type")]] = Field(min_length=1)


_RECORDS = TypeAdapter(dict[str, _Record])


def _over_convolutions(attribute: str, combine: Callable[[tuple[int, ...]], int]) -> property:
    """What the convolutions of a rewrite are together, (height, width)."""

    def read(rewritten: nn.Sequential) -> tuple[int, int]:
        sizes = [getattr(layer, attribute) for layer in rewritten if isinstance(layer, (nn.Conv2d, Rewritten))]
        if not sizes:
            raise AttributeError(f"'{attribute}' of a rewrite without convolutions")
        return tuple(map(combine, zip(*sizes, strict=True)))

    return property(read)


class Rewritten(nn.Sequential):
    """The layers that stand in place of one layer of the architecture.

    Args:
        layers: Conv2d, ZeroPad2d, ReLU, ReLU6 or Hardsigmoid; nothing else can be recorded, and raises TypeError.

    Attributes:
        record: how they are built, as plain data for `config.json`.
    """

    def __init__(self, kind: str, layers: Iterable[nn.Module]):
        super().__init__(*layers)
        try:
            record = _Record(kind=kind, layers=[_description(layer) for layer in self])
        except ValidationError as error:
            raise TypeError(f"rewrite '{kind}' cannot be recorded: {_reason(error)}") from None
        self.record = record.model_dump(mode="json")

    # Some architectures read these off their convolutions, as MobileNetV2 does for TensorFlow's padding.
    kernel_size = _over_convolutions("kernel_size", max)
    stride = _over_convolutions("stride", math.prod)
    dilation = _over_convolutions("dilation", max)


def record_rewrites(model: nn.Module) -> Rewrites:
    """Return `{module name: {"kind": ..., "layers": [{"type": "Conv2d", ...}, ...]}}`, outer modules first."""
    return {
        name: module.record
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, Rewritten)
    }


def check_rewrites(rewrites: Any) -> None:
    """Raise a RunError where `rewrites` has not the form that `record_rewrites` gives."""
    try:
        _RECORDS.validate_python(rewrites)
    except ValidationError as error:
        raise RunError(
            f"the rewrites that config.json records are damaged or were changed ({_reason(error)}): get the file again"
        ) from None


def apply_rewrites(model: nn.Module, rewrites: Rewrites) -> None:
    """Put layers into a freshly built model, without values: a loader fills them next.

    Raises:
        RunError: the model has no such module; the checkpoint belongs to another architecture, or was changed.
    """
    for name, record in _RECORDS.validate_python(rewrites).items():
        try:
            old = model.get_submodule(name)
            tensor = next(old.parameters(), next(model.parameters()))
            layers = [layer.build(device=tensor.device, dtype=tensor.dtype) for layer in record.layers]
            model.set_submodule(name, Rewritten(record.kind, layers))
        except (AttributeError, ValueError) as error:
            raise RunError(
                f"config.json records a rewrite of '{name}', which cannot be built in {type(model).__name__}: {error}"
            ) from None


def _description(layer: nn.Module) -> dict[str, Any]:
    kind = type(layer).__name__
    fields = {"Conv2d": _Convolution, "ZeroPad2d": _Padding}.get(kind, _Activation).model_fields
    options = {field: getattr(layer, field, None) for field in fields if field not in ("type", "bias")}
    if "bias" in fields:
        options["bias"] = layer.bias is not None
    return {"type": kind, **options}


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"'{place}': {first['msg']}"
