"""ONNX files for ONNX Runtime."""

import tempfile
from pathlib import Path

from hf_compress.device.opening import open_onnx
from hf_compress.runtimes.base import INPUT, Call, Exportable, Runtime, register_runtime


@register_runtime("onnx")
class Onnx(Runtime):
    """Written by torch's own exporter; labels and preprocessing are metadata properties of the model."""

    suffix = ".onnx"
    package = "onnxruntime"
    int8 = True

    def write(self, model: Exportable, file: Path) -> None:
        import onnx

        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "model.onnx"
            _export(model, written)
            if model.calibration:
                written = _quantized(model, written)
            graph = onnx.load(written)
        onnx.helper.set_model_props(graph, model.metadata)
        onnx.save(graph, file)

    def load(self, file: Path, threads: int) -> Call:
        return open_onnx(file, threads)


def _export(model: Exportable, file: Path) -> None:
    import torch

    program = torch.onnx.export(
        model.module,
        (model.image.repeat(2, 1, 1, 1),),
        dynamo=True,
        dynamic_shapes={INPUT: {0: "batch"}},
        input_names=[INPUT],
        output_names=model.outputs,
        verbose=False,
    )
    program.save(file)


def _quantized(model: Exportable, file: Path) -> Path:
    """Quantise weights per channel and activations with the ranges that the calibration images show (QDQ form).

    Weights keep seven bits (`reduce_range`): x86 processors without VNNI add pairs of 8-bit products in 16 bits.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Images(CalibrationDataReader):
        def __init__(self):
            self.inputs = ({INPUT: image.numpy()} for image in model.calibration)

        def get_next(self):
            return next(self.inputs, None)

    prepared, quantized = file.with_suffix(".prepared.onnx"), file.with_suffix(".int8.onnx")
    quant_pre_process(file, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        quantized,
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return quantized
