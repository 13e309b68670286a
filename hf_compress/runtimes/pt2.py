"""`torch.export` archives."""

from pathlib import Path

from hf_compress.device.opening import open_pt2
from hf_compress.runtimes.base import Call, Exportable, Runtime, register_runtime


@register_runtime("pt2")
class TorchExport(Runtime):
    """Written by `torch.export.save`; labels and preprocessing are extra files of the archive."""

    suffix = ".pt2"

    def write(self, model: Exportable, file: Path) -> None:
        import torch

        torch.export.save(model.program(dynamic_batch=True), file, extra_files=dict(model.metadata))

    def load(self, file: Path, threads: int) -> Call:
        return open_pt2(file, threads)
