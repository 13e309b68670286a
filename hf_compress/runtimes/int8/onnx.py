"""Static int8 of ONNX files, in which layers that would do too much damage stay in floats, and all around products."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_compress.device.opening import open_onnx
from hf_compress.runtimes.base import INPUT, Exportable
from hf_compress.runtimes.int8.biases import correct, shifts
from hf_compress.runtimes.int8.fallback import OTHERS, divergence, write_bearable

if TYPE_CHECKING:
    from onnx import GraphProto

LAYERS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}
AROUND = ("LayerNormalization", "MatMul")
UNROUNDED = ["MatMul", "Gemm"]  # layers whose int8 kernel gives floats, where nothing in int8 reads them
GROUP_NORM = "InstanceNormalization"  # always in floats: ONNX Runtime cannot quantise what a Reshape gives it


def quantized(model: Exportable, file: Path) -> tuple[Path, dict[str, Any]]:
    """Quantise a file with the ranges that the calibration images show, as far as its outputs bear it.

    Returns:
        The new file, beside the old one, and what `write_bearable` tells for the report.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared, result = file.with_suffix(".prepared.onnx"), file.with_suffix(".int8.onnx")
    quant_pre_process(file, prepared, skip_symbolic_shape=True)
    units, always = _units(prepared)
    images = [image.numpy() for image in model.calibration]
    threads = 0  # as many as there are cores
    error = divergence(model.outputs, open_onnx(prepared, threads), partial(open_onnx, result, threads), images)
    _quantize(prepared, result, images, always)
    lost = shifts(prepared, result, images)

    def write(in_floats: list[str]) -> None:
        _quantize(prepared, result, images, [*in_floats, *always])
        correct(result, lost)

    return result, write_bearable(units, write, error)


def _units(file: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Name all nodes; return those of each layer, and the others, and apart from them those that stay in floats."""
    import onnx

    model = onnx.load(file)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    onnx.save(model, file)
    always, units = _in_floats(model.graph), {}
    for node in model.graph.node:
        if node.name not in always:
            units.setdefault(node.name if node.op_type in LAYERS else OTHERS, []).append(node.name)
    return units, sorted(always)


def _in_floats(graph: GraphProto) -> set[str]:
    """Return the nodes that int8 slows down: group norms, products of two activations, and all around linear layers.

    That is, what lies between a matrix product or a layer norm and the next layer: ONNX Runtime has no int8 for norms,
    softmax and GELU, and its int8 product gives floats as fast, so rounding in between costs time and accuracy.
    """
    weights = {tensor.name for tensor in graph.initializer}
    nodes, touching = graph.node, defaultdict(set)
    activations = [{*node.input, *node.output} - weights - {""} for node in nodes]
    for number, tensors in enumerate(activations):
        for tensor in tensors:
            touching[tensor].add(number)
    layers = {number for number, node in enumerate(nodes) if node.op_type in LAYERS and weights & {*node.input}}
    found = {number for number, node in enumerate(nodes) if node.op_type in AROUND}
    waiting = list(found)
    while waiting:
        near = set().union(*(touching[tensor] for tensor in activations[waiting.pop()]))
        waiting += near - found - layers
        found |= near - layers
    return {nodes[number].name for number in found - layers} | {n.name for n in nodes if n.op_type == GROUP_NORM}


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
        extra_options={"OpTypesToExcludeOutputQuantization": UNROUNDED},
    )
