"""ONNX files for ONNX Runtime."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hf_compress.checkpoint.export.base import INPUT, OUTPUT, Call, Exportable, Runtime, register_runtime

if TYPE_CHECKING:
    import onnxruntime


@register_runtime("onnx")
class Onnx(Runtime):
    """Written by torch's own exporter; labels and preprocessing are metadata properties of the model."""

    suffix = ".onnx"
    package = "onnxruntime"
    extra = "onnx"
    int8 = True

    def write(self, model: Exportable, file: Path) -> None:
        with tempfile.TemporaryDirectory() as folder:
            exact = Path(folder) / "model.onnx"
            _export(model, exact)
            if model.calibration:
                exact = _quantized(model, exact)
            _copy_with_metadata(exact, file, model.metadata)

    def load(self, file: Path, threads: int) -> Call:
        run = session(file, threads).run

        def call(pixel_values: Tensor) -> Tensor:
            return torch.from_numpy(run([OUTPUT], {INPUT: pixel_values.contiguous().numpy()})[0])

        return call


def session(file: Path, threads: int) -> onnxruntime.InferenceSession:
    """Return an ONNX Runtime session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")  # idle threads leave the cores to others
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def _export(model: Exportable, file: Path) -> None:
    program = torch.onnx.export(
        model.module,
        (model.image.repeat(2, 1, 1, 1),),
        dynamo=True,
        dynamic_shapes={INPUT: {0: "batch"}},
        input_names=[INPUT],
        output_names=[OUTPUT],
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
            self.images = iter(model.calibration)

        def get_next(self):
            image = next(self.images, None)
            return None if image is None else {INPUT: image.numpy()}

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


def _copy_with_metadata(source: Path, target: Path, metadata: dict[str, str]) -> None:
    import onnx

    model = onnx.load(source)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, target)
