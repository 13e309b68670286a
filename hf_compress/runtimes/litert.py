"""LiteRT (TensorFlow Lite) files, for phones."""

import tempfile
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from hf_compress.device.opening import open_litert
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

    def write(self, model: Exportable, file: Path) -> None:
        import litert_torch

        said = StringIO()  # converter and quantizer print a line for each of their stages
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(said), redirect_stderr(said):
            floats = Path(folder) / "model.tflite" if model.calibration else file
            litert_torch.convert(model.module, sample_kwargs={INPUT: model.image}).export(str(floats))
            if model.calibration:
                write_int8(floats, file, model.calibration)

    def load(self, file: Path, threads: int) -> Call:
        return open_litert(file, threads)
