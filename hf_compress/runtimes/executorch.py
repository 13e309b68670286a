"""ExecuTorch programs with the XNNPACK backend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_compress.device.opening import open_executorch
from hf_compress.runtimes.base import Call, Exportable, Runtime, register_runtime

if TYPE_CHECKING:
    import torch


@register_runtime("executorch")
class ExecuTorch(Runtime):
    """A `.pte` for one image at a time, as phones run it; labels and preprocessing lie in the JSON beside it."""

    suffix = ".pte"
    package = "executorch.runtime"
    extra = "executorch"
    int8 = True
    batches = False

    def write(self, model: Exportable, file: Path) -> None:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = _quantized(model) if model.calibration else model.program(dynamic_batch=False)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        with open(file, "wb") as target:
            lowered.to_executorch().write_to_file(target)

    def load(self, file: Path, threads: int) -> Call:
        return open_executorch(file, threads)


def _quantized(model: Exportable) -> torch.export.ExportedProgram:
    """Quantise weights per channel and activations with the ranges that the calibration images show (PT2E)."""
    import torch
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    observed = prepare_pt2e(model.program(dynamic_batch=False).module(), quantizer)
    with torch.no_grad():
        for image in model.calibration:
            observed(image)
    return torch.export.export(convert_pt2e(observed), (model.image,))
