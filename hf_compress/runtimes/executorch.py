"""ExecuTorch programs with the XNNPACK backend."""

from __future__ import annotations

from pathlib import Path

from hf_compress.device.opening import open_executorch
from hf_compress.runtimes.base import Call, Exportable, Runtime, register_runtime


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

        from hf_compress.runtimes.int8.pt2e import quantized_program

        program = quantized_program(model) if model.calibration else model.program(dynamic_batch=False)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        with open(file, "wb") as target:
            lowered.to_executorch().write_to_file(target)

    def load(self, file: Path, threads: int) -> Call:
        return open_executorch(file, threads)
