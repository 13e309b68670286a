"""Biases of an int8 ONNX file that make good what the rounding of weights shifts on average (Nagel et al., 2019)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_compress.device.opening import open_onnx

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto

WITH_BIAS = {"Conv", "ConvTranspose", "Gemm"}  # the second dimension of what they give is that of the channels
PRODUCT = "MatMul"  # its last one is; it may have a bias in the addition behind it, which stays in floats


@dataclass(frozen=True)
class _Rounded:
    """A layer whose weights are integers.

    Attributes:
        weight: the node that makes floats of its weights.
        bias: the name of its bias.
        scale: the name of the bias's scale; None of a bias in floats.
    """

    node: NodeProto
    weight: NodeProto
    bias: str
    scale: str | None

    @property
    def channels(self) -> int:
        """The dimension of the channels in what it gives."""
        return 1 if self.scale else -1


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
    rounded = {layer.node.name: layer for layer in _rounded_layers(graph, tensors)}
    for node in list(model.graph.node):
        if node.name in rounded and node.input[1] in weights:
            beside = onnx.NodeProto()
            beside.CopyFrom(node)
            names.append(node.name)
            taken = numpy_helper.to_array(weights[node.input[1]]) - _values(rounded[node.name].weight, tensors)
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
        means.append([_by_channel(each, rounded[name].channels) for name, each in zip(names, found, strict=True)])
    looked_at.unlink()
    return {name: np.mean(values, axis=0) for name, values in zip(names, zip(*means, strict=True), strict=True)}


def correct(int8: Path, by: Mapping[str, np.ndarray]) -> None:
    """Add to the biases of an int8 file what `shifts` found; layers in floats have theirs already."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(int8)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in _rounded_layers(model.graph, tensors):
        if layer.node.name in by:
            old, more = tensors[layer.bias], by[layer.node.name]
            if layer.scale:
                more = np.rint(more / numpy_helper.to_array(tensors[layer.scale])).astype(np.int32)
            old.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(old) + more, layer.bias))
    onnx.save(model, int8)


def _rounded_layers(graph: GraphProto, tensors: Mapping[str, TensorProto]) -> Iterator[_Rounded]:
    """Yield the layers whose weights are integers, and that have a bias; norms multiply nothing with each other."""
    makers = {
        node.output[0]: node for node in graph.node if node.op_type == "DequantizeLinear" and node.input[0] in tensors
    }
    readers = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    for node in graph.node:
        if node.op_type in WITH_BIAS and len(node.input) == 3 and {node.input[1], node.input[2]} <= makers.keys():
            values, scale, *_ = makers[node.input[2]].input
            yield _Rounded(node, makers[node.input[1]], values, scale)
        elif node.op_type == PRODUCT and node.input[1] in makers:
            added = [name for reader in readers[node.output[0]] if reader.op_type == "Add" for name in reader.input]
            for name in added:
                if name in tensors and len(readers[name]) == len(readers[node.output[0]]) == 1:
                    yield _Rounded(node, makers[node.input[1]], name, None)


def _by_channel(values: np.ndarray, channels: int) -> np.ndarray:
    """Return the mean of each channel."""
    return np.moveaxis(values, channels, -1).reshape(-1, values.shape[channels]).mean(axis=0)


def _values(maker: NodeProto, tensors: Mapping[str, TensorProto]) -> np.ndarray:
    """Return what a `DequantizeLinear` makes of integers that are symmetric around zero."""
    from onnx import numpy_helper

    values, scale = (numpy_helper.to_array(tensors[name]) for name in maker.input[:2])
    axis = next((attribute.i for attribute in maker.attribute if attribute.name == "axis"), 1)
    shape = [-1 if place == axis else 1 for place in range(values.ndim)] if scale.ndim else []
    return (values * scale.reshape(shape)).astype(np.float32)
