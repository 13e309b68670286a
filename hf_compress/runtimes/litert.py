"""LiteRT (TensorFlow Lite) files, for phones."""

import tempfile
from pathlib import Path
from typing import Any

from hf_compress.device.opening import open_litert
from hf_compress.ground.progress import unheard
from hf_compress.runtimes.base import INPUT, Call, Exportable, Runtime, register_runtime
from hf_compress.runtimes.int8.litert import write_int8


@register_runtime("litert")
class LiteRt(Runtime):
    """A `.tflite` for one image at a time; labels and preprocessing lie in the JSON beside it."""

    suffix = ".tflite"
    package = "litert_torch"
    extra = "litert"
    int8 = True
    batches = False

    def write(self, model: Exportable, file: Path) -> dict[str, Any]:
        import litert_torch

        with tempfile.TemporaryDirectory() as folder:
            floats = Path(folder) / "model.tflite" if model.calibration else file
            with unheard():  # a line for each stage
                litert_torch.convert(model.module, sample_kwargs={INPUT: model.image}).export(str(floats))
            return write_int8(model, floats, file) if model.calibration else {}

    def load(self, file: Path, threads: int) -> Call:
        return open_litert(file, threads)
