"""What stands in place of rewritten layers and dropped blocks, as plain data: from one model, for another."""

import math
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, StrictBool, Tag, TypeAdapter, ValidationError
from torch import nn

from hf_compress.ground.errors import RunError

DROPPED = "dropped"
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

    def build(self, **placement: Any) -> nn.Module:
        return Rewritten(self.kind, [layer.build(**placement) for layer in self.layers])


class _Dropped(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["dropped"]
    length: Count | None

    def build(self, **placement: Any) -> nn.Module:
        return Dropped(self.length)


def _form(record: Any) -> str:
    return DROPPED if isinstance(record, dict) and record.get("kind") == DROPPED else "rewritten"


_Any = Annotated[Annotated[_Dropped, Tag(DROPPED)] | Annotated[_Record, Tag("rewritten")], Discriminator(_form)]
_RECORDS = TypeAdapter(dict[str, _Any])


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


class Dropped(nn.Module):
    """What stands in place of a block that was dropped: it gives its first input back.

    Args:
        length: of the tuple that the block returned, of which all but the first are None; None for a tensor alone.

    Attributes:
        record: the same as plain data for `config.json`.
    """

    def __init__(self, length: int | None = None):
        super().__init__()
        self.record = {"kind": DROPPED, "length": length}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        first, length = next(iter((*args, *kwargs.values()))), self.record["length"]
        return first if length is None else (first, *[None] * (length - 1))


def record_rewrites(model: nn.Module) -> Rewrites:
    """Return what stands in place of layers and blocks, by the name of the module, outer modules first.

    Returns:
        `{"kind": ..., "layers": [{"type": "Conv2d", ...}, ...]}` for each layer that was rewritten, and
        `{"kind": "dropped", "length": None}` for each block that was dropped, see `Dropped`.
    """
    return {
        name: module.record
        for name, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, Rewritten | Dropped)
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
            model.set_submodule(name, record.build(device=tensor.device, dtype=tensor.dtype))
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
