"""Int8 simulated in a model of floats: its layers compute with rounded weights, and give and read rounded values.

As files in int8 have it: weights symmetric, with a range for each output channel; activations with one range each.
Because each channel of weights has its own range, a batch norm that is folded into them would not change how they are
rounded (Krishnamoorthi, 2018, section 3.2.2), so none is folded here. Batch norms keep their statistics, as folded
ones do. What rounded weights shift on average is made good in each channel, as corrected biases of files do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization import (
    FakeQuantize,
    FusedMovingAvgObsFakeQuantize,
    MovingAverageMinMaxObserver,
    MovingAveragePerChannelMinMaxObserver,
)
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

ROUNDED_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
ABSORBED = (nn.BatchNorm2d, nn.ReLU, nn.Hardtanh, nn.Identity, nn.Dropout)  # runtimes make them part of the layer
PASSING = {"pad", "flatten", "reshape", "view", "transpose", "permute", "squeeze", "unsqueeze", "contiguous"}
FOLLOWED = 0.01  # of each batch by moving averages, as torch's observers of ranges do
SEVEN_BITS = 64  # as ONNX Runtime's files have them; see `hf_compress.runtimes.int8.onnx`


class Simulation:
    """What hooks do in a model; see `simulate_int8`.

    Attributes:
        layers: names of the layers that compute with rounded weights.
        ranges: of the activations: moving averages of what they were in training.
        shifts: of the channels of layers, because of rounded weights: moving averages, too.
        calibrating: whether ranges and shifts are also learnt in eval mode.
        hooks: all that is in the model.
    """

    def __init__(self, layers: list[str]):
        self.layers = layers
        self.ranges, self.shifts = nn.ModuleList(), nn.ModuleList()
        self.calibrating = True
        self.hooks: list[RemovableHandle] = []

    def new_shift(self, layer: nn.Module) -> nn.Module:
        self.shifts.append(Shift(layer))
        return self.shifts[-1]

    def new_range(self) -> nn.Module:
        self.ranges.append(
            FusedMovingAvgObsFakeQuantize(
                MovingAverageMinMaxObserver,
                quant_min=0,
                quant_max=255,
                dtype=torch.quint8,
                qscheme=torch.per_tensor_affine,
            )
        )
        return self.ranges[-1]

    @property
    def learnt(self) -> nn.Module:
        """All that is learnt beside the weights."""
        return nn.ModuleList([self.ranges, self.shifts])

    def begin(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        learn = model.training or self.calibrating
        for each in (*self.ranges, *self.shifts):
            each.enable_observer(learn)

    def end(self) -> None:
        """Leave the model as it was, with the weights that it has now."""
        for hook in self.hooks:
            hook.remove()


class Shift(nn.Module):
    """What each channel of a layer gives less, on average, because of rounded weights."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        linear = isinstance(layer, nn.Linear)
        self.at, self.learning = -1 if linear else 1, True
        self.register_buffer("mean", torch.full((layer.out_features if linear else layer.out_channels,), torch.nan))

    def enable_observer(self, enabled: bool) -> None:
        self.learning = enabled

    @torch.no_grad()
    def learn(self, taken: Tensor) -> None:
        """Follow what a batch shows; the first one is taken as it is."""
        new = taken.float().movedim(self.at, 0).flatten(1).mean(1)
        self.mean = torch.where(self.mean.isnan(), new, self.mean + FOLLOWED * (new - self.mean))

    def forward(self, output: Tensor) -> Tensor:
        shape = [1] * output.dim()
        shape[self.at] = -1
        return output + self.mean.nan_to_num().to(output.dtype).view(shape)


class RoundedWeights:
    """Lets a layer compute with rounded weights: an attribute hides the parameter, which stays as it is.

    Args:
        shift: makes good on average what that changes, where the layer's file has a bias that can.
    """

    def __init__(self, layer: nn.Module, shift: Shift | None = None):
        self.shift = shift
        self.rounding = FakeQuantize(  # the fused kernel has another scale, which moves the largest weight most
            MovingAveragePerChannelMinMaxObserver,
            quant_min=-SEVEN_BITS,
            quant_max=SEVEN_BITS,
            averaging_constant=1.0,  # the range of the weights as they are now
            dtype=torch.qint8,
            qscheme=torch.per_channel_symmetric,
            ch_axis=1 if isinstance(layer, nn.ConvTranspose2d) else 0,
        )

    def before(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        vars(layer)["weight"] = _rounded(layer.weight, self.rounding)

    def after(self, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        rounded = vars(layer).pop("weight", None)
        if self.shift is None or rounded is None or not isinstance(output, Tensor):
            return output
        shift = self.shift.to(output.device)
        if shift.learning:
            shift.learn(self._of_what_was_taken(layer, inputs, rounded))
        return shift(output)

    @torch.no_grad()
    def _of_what_was_taken(self, layer: nn.Module, inputs: tuple[Any, ...], rounded: Tensor) -> Tensor:
        """Return what the layer makes of its inputs by what rounding took from its weights."""
        hidden = {"weight": layer.weight - rounded, "bias": None}
        vars(layer).update(hidden)
        try:
            return type(layer).forward(layer, *inputs)
        finally:
            for name in hidden:
                del vars(layer)[name]


class RoundedValues:
    """Rounds what a module reads, or what it gives."""

    def __init__(self, rounding: nn.Module):
        self.rounding = rounding

    def read(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (_rounded(inputs[0], self.rounding), *inputs[1:])

    def given(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return _rounded(output, self.rounding)


@dataclass
class Places:
    """Where values are rounded, found by running the model once.

    What a layer makes is rounded behind the batch norm and the activation that become part of it; what it reads, where
    no other layer made it; padding and other shapes change nothing. Of modules that run more than once in a pass, each
    time with other values, the weights alone are rounded.

    Attributes:
        ends: by layer, the last module that becomes part of it, and what that gives.
        normed: layers of which a batch norm becomes a part, and so a bias.
        reads: by layer, what it reads.
    """

    often: set[nn.Module]
    ends: dict[nn.Module, tuple[nn.Module, Tensor]] = field(default_factory=dict)
    normed: set[nn.Module] = field(default_factory=set)
    reads: dict[nn.Module, Tensor] = field(default_factory=dict)
    made: dict[int, tuple[nn.Module, Tensor]] = field(default_factory=dict)  # keeps tensors, so that ids stay theirs
    passed: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def see(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if module in self.often or not inputs or not isinstance(output, Tensor):
            return
        layer = module
        if isinstance(module, ROUNDED_LAYERS):
            self.reads[module] = inputs[0]
        elif isinstance(module, ABSORBED) and id(inputs[0]) in self.made:
            layer, _ = self.made[id(inputs[0])]
            if isinstance(module, nn.BatchNorm2d):
                self.normed.add(layer)
        else:
            return
        self.ends[layer] = module, output
        self.made[id(output)] = layer, output

    def see_function(self, name: str, arguments: tuple[Any, ...], output: Any) -> None:
        if name in PASSING and isinstance(output, Tensor) and arguments and id(arguments[0]) in self.made:
            self.passed.append((arguments[0], output))
            self.made[id(output)] = self.made[id(arguments[0])][0], output

    @property
    def read_from_elsewhere(self) -> list[nn.Module]:
        """The layers that read what no other layer made."""
        rounded = {id(output) for _, output in self.ends.values()}
        for given, output in self.passed:
            if id(given) in rounded:
                rounded.add(id(output))
        return [layer for layer, read in self.reads.items() if id(read) not in rounded]


class WatchFunctions(TorchFunctionMode):
    """Shows each function of torch that is called to `see`: name, arguments and output."""

    def __init__(self, see: Callable[[str, tuple[Any, ...], Any], None]):
        super().__init__()
        self.see = see

    def __torch_function__(self, function, types, arguments=(), options=None):
        output = function(*arguments, **(options or {}))
        self.see(function.__name__, arguments, output)
        return output


def by_name(model: nn.Module, images: Tensor) -> Any:
    """Call a model as transformers' vision models are called."""
    return model(pixel_values=images)


def simulate_int8(
    model: nn.Module, images: Iterable[Tensor], show: Callable[[nn.Module, Tensor], Any] = by_name
) -> Simulation:
    """Simulate int8 in training and eval mode, until the simulation's `end`; the state of the model has no part of it.

    In training mode the ranges of activations follow what is shown; in eval mode they stay. Copies of the model
    simulate, too, and have ranges of their own.

    Args:
        model: in eval mode.
        images: batches that set the first ranges, each of shape (batch, 3, height, width).
        show: runs the model on such a batch.
    """
    first, *others = images
    reading, giving, biased = _places(model, first[:1], show)
    layers = {module: name for name, module in model.named_modules() if isinstance(module, ROUNDED_LAYERS)}
    simulation = Simulation(list(layers.values()))
    hooks = simulation.hooks
    hooks.append(model.register_forward_pre_hook(simulation.begin))
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            hooks.append(module.register_forward_pre_hook(_keep_statistics))
    for layer in layers:
        weights = RoundedWeights(layer, simulation.new_shift(layer) if layer in biased else None)
        hooks.append(layer.register_forward_pre_hook(weights.before))
        hooks.append(layer.register_forward_hook(weights.after, always_call=True))
    hooks += [layer.register_forward_pre_hook(RoundedValues(simulation.new_range()).read) for layer in reading]
    hooks += [module.register_forward_hook(RoundedValues(simulation.new_range()).given) for module in giving]
    try:
        with torch.no_grad():
            for batch in (first, *others):
                show(model, batch)
    except BaseException:
        simulation.end()
        raise
    simulation.calibrating = False
    return simulation


@contextmanager
def int8_simulated(model: nn.Module, images: Iterable[Tensor]) -> Iterator[Simulation]:
    """Simulate int8 in a `with` block; see `simulate_int8`."""
    simulation = simulate_int8(model, images)
    try:
        yield simulation
    finally:
        simulation.end()


@torch.no_grad()
def _places(
    model: nn.Module, image: Tensor, show: Callable[[nn.Module, Tensor], Any]
) -> tuple[list[nn.Module], list[nn.Module], set[nn.Module]]:
    """Return the layers that read, and the modules that give, what is rounded; and the layers that have biases."""
    calls: Counter[nn.Module] = Counter()

    def count(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        calls[module] += 1

    def watched(see: Any) -> None:
        hooks = [module.register_forward_hook(see) for module in model.modules() if not list(module.children())]
        show(model, image)
        for hook in hooks:
            hook.remove()

    watched(count)
    places = Places({module for module, number in calls.items() if number > 1})
    with WatchFunctions(places.see_function):
        watched(places.see)
    biased = {layer for layer in model.modules() if isinstance(layer, ROUNDED_LAYERS) and layer.bias is not None}
    return places.read_from_elsewhere, [module for module, _ in places.ends.values()], biased | places.normed


def _rounded(values: Tensor, rounding: nn.Module) -> Tensor:
    return rounding.to(values.device)(values.float()).to(values.dtype)  # there is no kernel for bfloat16


def _keep_statistics(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
    norm.eval()
