"""LiteRT (TensorFlow Lite) files, for phones."""

from pathlib import Path

from hf_compress.device.opening import open_litert
from hf_compress.runtimes.base import INPUT, Call, Exportable, Runtime, register_runtime


@register_runtime("litert")
class LiteRt(Runtime):
    """A `.tflite` for one image at a time; labels and preprocessing lie in the JSON beside it."""

    suffix = ".tflite"
    package = "litert_torch"
    extra = "litert"
    batches = False

    def write(self, model: Exportable, file: Path) -> None:
        import litert_torch

        litert_torch.convert(model.module, sample_kwargs={INPUT: model.image}).export(str(file))

    def load(self, file: Path, threads: int) -> Call:
        return open_litert(file, threads)
