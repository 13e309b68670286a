"""LiteRT (TensorFlow Lite) files, for phones."""

from pathlib import Path

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
        import torch
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(file), num_threads=threads)
        run = interpreter.get_signature_runner()

        def call(pixel_values):
            made = run(**{INPUT: pixel_values.contiguous().numpy()})
            in_order = sorted(made, key=lambda name: (len(name), name))  # output_0, ..., output_10
            return [torch.from_numpy(made[name]) for name in in_order]

        return call
