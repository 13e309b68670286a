"""What layers read while calibration images go through a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from hf_compress.ground.progress import track
from hf_compress.steps.pruning.score.calibration import Calibration


@torch.no_grad()
def look(
    model: nn.Module, layers: Iterable[str], calibration: Calibration, see: Callable[[str, nn.Module, Tensor], None]
) -> None:
    """Call `see` with the name of a layer, the layer and its input, whenever one of `layers` runs."""

    def watched(name: str) -> Callable:
        return lambda layer, args, output: see(name, layer, args[0])

    handles = [model.get_submodule(name).register_forward_hook(watched(name)) for name in layers]
    for images in track(calibration.pixel_values(), "Looking at what layers read"):
        model(pixel_values=images)
    for handle in handles:
        handle.remove()
