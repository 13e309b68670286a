"""What computes: its name, where models run, and `torch.compile`, as trainings and measurements use it."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def device_name() -> str:
    """Return the processor's name as the operating system tells it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def fastest_device() -> torch.device:
    """Return where models are run that no trainer has placed: the GPU, or the processor where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def full_float32() -> Iterator[None]:
    """Let GPUs convolve float32 in float32 in a `with` block; as torch is set up, they round to TF32."""
    convolutions = torch.backends.cudnn.conv
    before, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


def compiled(model: nn.Module) -> nn.Module:
    """Return `model` compiled, one graph a batch size, with the same weights.

    The graphs are made when it is first called with a size, which takes from seconds to minutes.
    """
    torch._dynamo.config.recompile_limit = 64  # models of one class share it; beyond it they silently run eagerly
    return torch.compile(model, dynamic=False)
