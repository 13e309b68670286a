"""What a model costs: parameters, MACs, bytes, memory."""

import tempfile
from pathlib import Path

import torch
from torch.distributed._tools.mem_tracker import MemTracker
from transformers import PreTrainedModel

from hf_compress.checkpoint import save
from hf_compress.ground.looking import twin
from hf_compress.ground.tensors import use_channels_last
from hf_compress.measure.macs import counting_macs
from hf_compress.models.ensemble import Ensemble


def cost(model: PreTrainedModel | Ensemble, image: torch.Tensor | tuple[torch.Tensor, ...]) -> dict[str, int]:
    """Return the static costs of a model.

    Args:
        image: one input, shape (1, 3, height, width); for an ensemble, one a member.

    Returns:
        `parameters`, `nonzero_parameters`, `macs` (multiply-accumulates of convolutions and matrix products for this
        image), `bytes` (weight files on disk, as saved), `peak_memory_bytes` (see `peak_memory`).
    """
    model = twin(model)
    use_channels_last(model)
    return {
        "parameters": count_parameters(model),
        "nonzero_parameters": sum(int(torch.count_nonzero(p)) for p in model.parameters()),
        "macs": count_macs(model, image),
        "bytes": sum(map(bytes_on_disk, model.members if isinstance(model, Ensemble) else [model])),
        "peak_memory_bytes": peak_memory(model, image),
    }


def count_parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def count_macs(model: PreTrainedModel, image: torch.Tensor) -> int:
    """Return the multiply-accumulates for `image`; see `measure.macs`."""
    model = twin(model)
    with counting_macs() as counter:
        model(pixel_values=image)
    return counter.macs


def bytes_on_disk(model: PreTrainedModel) -> int:
    """Return the size of the weight files, really saved."""
    with tempfile.TemporaryDirectory() as folder:
        save(twin(model), folder)
        return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def peak_memory(model: PreTrainedModel, image: torch.Tensor) -> int:
    """Return the peak of the bytes that a forward pass on the CPU holds: parameters, buffers and activations.

    Counted tensor by tensor with torch's own tracker, so that other programs and earlier peaks do not matter.
    """
    model, tracker = twin(model), MemTracker()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    tracker._track_module_params_and_buffers(model)  # hooks gradients, which frozen parameters would refuse later
    model.requires_grad_(False)
    with torch.no_grad(), tracker:
        model(pixel_values=image)
    return sum(device["Total"] for device in tracker.get_tracker_snapshot("peak").values())
