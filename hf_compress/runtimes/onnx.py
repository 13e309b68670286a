"""ONNX files for ONNX Runtime."""

import tempfile
from pathlib import Path
from typing import Any

from hf_compress.device.opening import open_onnx
from hf_compress.runtimes.base import INPUT, Call, Exportable, Runtime, register_runtime
from hf_compress.runtimes.int8.onnx import quantized


@register_runtime("onnx")
class Onnx(Runtime):
    """Written by torch's own exporter; labels and preprocessing are metadata properties of the model."""

    suffix = ".onnx"
    package = "onnxruntime"
    int8 = True

    def write(self, model: Exportable, file: Path) -> dict[str, Any]:
        import onnx

        told: dict[str, Any] = {}
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "model.onnx"
            _export(model, written)
            if model.calibration:
                written, told = quantized(model, written)
            graph = onnx.load(written)
        for value in graph.graph.value_info:
            value.ClearField("metadata_props")
        onnx.helper.set_model_props(graph, model.metadata)
        onnx.save(graph, file)
        return told

    def load(self, file: Path, threads: int) -> Call:
        return open_onnx(file, threads)


def _export(model: Exportable, file: Path) -> None:
    import torch
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from onnxscript import BOOL, INT32, opset18

    def all_true(values):  # detectors check their inputs so; nothing reads it in the file
        return opset18.Cast(opset18.ReduceMin(opset18.Cast(values, to=INT32.dtype), keepdims=0), to=BOOL.dtype)

    with torch.no_grad():
        program = torch.onnx.export(
            model.module,
            (model.image.repeat(2, 1, 1, 1),),
            dynamo=True,
            dynamic_shapes={INPUT: {0: "batch"}},
            input_names=[INPUT],
            output_names=model.outputs,
            custom_translation_table={torch.ops.aten._is_all_true.default: all_true},
            verbose=False,
        )
    _keep_constants(program.model.graph)
    ClearMetadataAndDocStringPass()(program.model)  # where each node came from: code and paths of this machine
    program.save(file)


def _keep_constants(graph: Any) -> None:
    """Put back the bounds of clips that an optimisation of the exporter loses where several clip the same tensor."""
    for node in graph:
        for value in node.inputs:
            if value is not None and value.const_value is not None and value.producer() is None:
                graph.initializers.setdefault(value.name, value)
