"""Biases of an int8 ONNX file that make good what the rounding of weights shifts on average (Nagel et al., 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_compress.device.opening import open_onnx

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

WITH_BIAS = {"Conv", "ConvTranspose", "Gemm"}  # the second dimension of what they give is that of the channels


def shifts(floats: Path, int8: Path, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return what each channel of the layers gives less, on average over the images, because of rounded weights.

    Beside every layer of the file in floats another one makes of the same inputs what the rounding took away, so that
    strides, groups and padding count as they do in the layer.

    Args:
        floats: the file that was quantised; nodes have the same names in both.

    Returns:
        Arrays of shape (channels,) by the names of the layers that have a bias in int8.
    """
    import onnx
    from onnx import numpy_helper

    model, names = onnx.load(floats), []
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    graph = onnx.load(int8).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    rounded = {node.name: _values(weight, tensors) for node, weight, _ in _rounded_layers(graph, tensors)}
    for node in list(model.graph.node):
        if node.name in rounded and node.input[1] in weights:
            beside = onnx.NodeProto()
            beside.CopyFrom(node)
            names.append(node.name)
            taken = numpy_helper.to_array(weights[node.input[1]]) - rounded[node.name]
            model.graph.initializer.append(numpy_helper.from_array(taken, f"{node.name} taken"))
            del beside.input[1:], beside.output[:]
            beside.input.append(f"{node.name} taken")
            beside.output.append(f"{node.name} shift")
            beside.name = beside.output[0]
            model.graph.node.append(beside)
            model.graph.output.append(onnx.ValueInfoProto(name=beside.output[0]))
    looked_at = floats.with_suffix(".shifts.onnx")
    onnx.save(model, looked_at)
    ask, means = open_onnx(looked_at, 0), []
    for image in images:
        found = ask(image)[-len(names) :] if names else []
        means.append([each.mean(axis=(0, *range(2, each.ndim))) for each in found])
    looked_at.unlink()
    return {name: np.mean(values, axis=0) for name, values in zip(names, zip(*means, strict=True), strict=True)}


def correct(int8: Path, by: Mapping[str, np.ndarray]) -> None:
    """Add to the biases of an int8 file what `shifts` found; layers in floats have theirs already."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(int8)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node, _, (bias, scale, *_) in _rounded_layers(model.graph, tensors):
        if node.name in by:
            more = np.rint(by[node.name] / numpy_helper.to_array(tensors[scale])).astype(np.int32)
            old = tensors[bias]
            old.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(old) + more, bias))
    onnx.save(model, int8)


def _rounded_layers(
    graph: GraphProto, tensors: Mapping[str, TensorProto]
) -> Iterator[tuple[NodeProto, NodeProto, Sequence[str]]]:
    """Yield the layers whose weights and biases are integers; norms, whose are, too, multiply nothing with each other.

    With each comes what makes floats of its weights, and the names of the values, scale and zero point of its bias.
    """
    makers = {
        node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors
    }
    for node in graph.node:
        with_bias = node.op_type in WITH_BIAS and len(node.input) == 3
        if with_bias and node.input[1] in makers and node.input[2] in makers:
            yield node, makers[node.input[1]], makers[node.input[2]].input


def _values(maker: NodeProto, tensors: Mapping[str, TensorProto]) -> np.ndarray:
    """Return what a `DequantizeLinear` makes of integers that are symmetric around zero."""
    from onnx import numpy_helper

    values, scale = (numpy_helper.to_array(tensors[name]) for name in maker.input[:2])
    axis = next((attribute.i for attribute in maker.attribute if attribute.name == "axis"), 1)
    shape = [-1 if place == axis else 1 for place in range(values.ndim)] if scale.ndim else []
    return (values * scale.reshape(shape)).astype(np.float32)
