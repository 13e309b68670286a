"""The simulation of int8 in a model between `prepare` and `convert`."""

from torch import Tensor, nn

from hf_compress.ground.errors import UsageError
from hf_compress.steps.quantization.simulation import ROUNDED_LAYERS, Simulation, simulate_int8

STATE = "hf_compress_int8"


def simulate(model: nn.Module, images: Tensor | None) -> None:
    """Let the model compute with rounded weights and values from now on; its modes stay as they are.

    Args:
        images: shape (batch, 3, height, width); they set the first ranges.

    Raises:
        UsageError: the model simulates already, has nothing that int8 rounds, or there are no images.
    """
    if hasattr(model, STATE):
        raise UsageError("the model is prepared for int8 already: convert it first")
    if not any(isinstance(module, ROUNDED_LAYERS) for module in model.modules()):
        raise UsageError(f"{type(model).__name__} has no convolution and no linear layer, which are what int8 rounds")
    if images is None:
        raise UsageError(
            "int8 needs images that set the first ranges: pass example_inputs of shape (batch, 3, height, width)"
        )
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        setattr(model, STATE, simulate_int8(model, [images], lambda model, images: model(images)))
    finally:
        for module, training in modes.items():
            module.training = training


def simulation_of(model: nn.Module) -> Simulation | None:
    """Return the simulation in progress."""
    return getattr(model, STATE, None)


def stop(model: nn.Module) -> None:
    """Leave an ordinary model, in floats.

    Raises:
        UsageError: int8 is not simulated in it.
    """
    simulation = simulation_of(model)
    if simulation is None:
        raise UsageError("the model is not prepared for int8: prepare(model, QuantizeConfig(), example_inputs=images)")
    simulation.end()
    delattr(model, STATE)
