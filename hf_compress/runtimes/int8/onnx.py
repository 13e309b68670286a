"""Static int8 of ONNX files, in which layers that would do too much damage stay in floats."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_compress.device.opening import open_onnx
from hf_compress.runtimes.base import INPUT, Exportable
from hf_compress.runtimes.int8.biases import correct, shifts
from hf_compress.runtimes.int8.fallback import OTHERS, divergence, write_bearable

LAYERS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
GROUP_NORM = "InstanceNormalization"  # always in floats: ONNX Runtime cannot quantise what a Reshape gives it


def quantized(model: Exportable, file: Path) -> tuple[Path, dict[str, Any]]:
    """Quantise a file with the ranges that the calibration images show, as far as its outputs bear it.

    Returns:
        The new file, beside the old one, and what `write_bearable` tells for the report.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, result = file.with_suffix(".prepared.onnx"), file.with_suffix(".int8.onnx")
    quant_pre_process(file, prepared, skip_symbolic_shape=True)
    units = _units(prepared)
    norms = units.pop(GROUP_NORM, [])
    images = [image.numpy() for image in model.calibration]
    threads = 0  # as many as there are cores
    error = divergence(model.outputs, open_onnx(prepared, threads), partial(open_onnx, result, threads), images)
    _quantize(prepared, result, images, norms)
    lost = shifts(prepared, result, images)

    def write(in_floats: list[str]) -> None:
        _quantize(prepared, result, images, [*in_floats, *norms])
        correct(result, lost)

    return result, write_bearable(units, write, error)


def _units(file: Path) -> dict[str, list[str]]:
    """Name all nodes, and return those of each layer, the group norms, and the others."""
    import onnx

    graph = onnx.load(file)
    units: dict[str, list[str]] = {}
    for number, node in enumerate(graph.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
        alone = node.name if node.op_type in LAYERS else GROUP_NORM if node.op_type == GROUP_NORM else OTHERS
        units.setdefault(alone, []).append(node.name)
    onnx.save(graph, file)
    return units


def _quantize(file: Path, to: Path, images: Sequence[np.ndarray], in_floats: list[str]) -> None:
    """Write an int8 file: weights per channel, activations with the ranges of the images, in QDQ form.

    Weights keep seven bits (`reduce_range`): x86 processors without VNNI add pairs of 8-bit products in 16 bits.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Images(CalibrationDataReader):
        def __init__(self):
            self.inputs = ({INPUT: image} for image in images)

        def get_next(self):
            return next(self.inputs, None)

    quantize_static(
        file,
        to,
        Images(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibration_cache_path=file.with_suffix(".ranges.json"),
        nodes_to_exclude=in_floats,
    )
