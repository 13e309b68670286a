"""What a model costs: parameters, bytes, memory, and MACs by torch's own counter, taught what it leaves out."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from transformers import PreTrainedModel

from hf_compress.checkpoint import save
from hf_compress.ground.looking import twin
from hf_compress.ground.tensors import use_channels_last
from hf_compress.models.ensemble import Ensemble

aten = torch.ops.aten


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
        "nonzero_parameters": count_nonzero(model),
        "macs": count_macs(model, image),
        "bytes": sum(map(bytes_on_disk, model.members if isinstance(model, Ensemble) else [model])),
        "peak_memory_bytes": peak_memory(model, image),
    }


def count_parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def count_nonzero(model: torch.nn.Module) -> int:
    """Return the number of parameters that are not zero."""
    return sum(int(torch.count_nonzero(p)) for p in model.parameters())


def count_macs(model: PreTrainedModel, image: torch.Tensor) -> int:
    """Return the multiply-accumulates for `image`; see `counting_macs`."""
    model = twin(model)
    with counting_macs() as counter:
        model(pixel_values=image)
    return counter.macs


def macs_by_module(model: nn.Module, image: torch.Tensor) -> dict[str, int]:
    """Return the multiply-accumulates for `image` by the name of each module that computes some."""
    looked = twin(model)
    with counting_macs() as counter:
        looked(pixel_values=image)
    root = f"{type(model).__name__}."
    return {name.removeprefix(root): macs for name, macs in counter.by_module().items()}


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


class MacCounter(FlopCounterMode):
    """Counts multiply-accumulates of matrix products and convolutions; see `counting_macs`."""

    def __init__(self):
        super().__init__(display=False, custom_mapping=FORMULAS)

    @property
    def macs(self) -> int:
        return self.get_total_flops() // 2

    def by_module(self) -> dict[str, int]:
        """Return the multiply-accumulates by module, named as torch's module tracker names them."""
        return {name: sum(flops.values()) // 2 for name, flops in self.get_flop_counts().items()}


@contextmanager
def counting_macs() -> Iterator[MacCounter]:
    """Count in a `with` block, without gradients, and without torch's fused transformer layers, which hide products.

    The parameters must be frozen: torch's counter watches for gradients, and fails where a module returns a parameter.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), MacCounter() as counter:
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> int:
    """Every query meets every key, whatever the mask: as torch counts the attention of GPUs, and as `bmm` does."""
    return sdpa_flop_count(query, key, value)


def _matrix_vector(*shapes: Any, **kwargs: Any) -> int:
    """Count as many products as the matrix, or the first vector, has entries; it comes last but one."""
    return 2 * prod(shapes[-2])


def _added_batch(added: Any, first: Any, second: Any, **kwargs: Any) -> int:
    return 2 * prod(first) * second[-1]


def _recurrent(x: Any, to_hidden: Any, hidden_to_hidden: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(x[:-1]) * (prod(to_hidden) + prod(hidden_to_hidden))


FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_fused_attention_overrideable: _attention,
    aten._scaled_dot_product_attention_math_for_mps: _attention,
    aten.mv: _matrix_vector,
    aten.dot: _matrix_vector,
    aten.vdot: _matrix_vector,
    aten.addmv: _matrix_vector,
    aten.addbmm: _added_batch,
    aten.mkldnn_rnn_layer: _recurrent,
}
