"""Static int8 of ONNX files, in which layers that would do too much damage stay in floats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_compress.device.opening import open_onnx
from hf_compress.ground.progress import track
from hf_compress.runtimes.base import INPUT, Exportable

BOUND = 0.05  # of the outputs' variance
SHOWN = 32
LAYERS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}


def quantized(model: Exportable, file: Path, bound: float = BOUND) -> tuple[Path, dict[str, Any]]:
    """Quantise a file with the ranges that the calibration images show, as far as its outputs bear it.

    Where the outputs of the whole model in int8 differ by more than `bound`, each layer is measured as the only one in
    int8, and all that is no layer (additions, activations, norms) as one more. As few as it takes are put back to
    floats, in the order of that damage.

    Returns:
        The new file, beside the old one, and for the report: `int8_error`, the mean squared difference of the outputs
        that differ most, in shares of their variance over at most 32 calibration images; and `float_layers`.
    """
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = file.with_suffix(".prepared.onnx")
    quant_pre_process(file, prepared, skip_symbolic_shape=True)
    units = _units(prepared)
    images = [image.numpy() for image in model.calibration]
    error = _errors(prepared, images[:: -(-len(images) // SHOWN)])
    result = file.with_suffix(".int8.onnx")

    def tried(in_floats: Sequence[str]) -> float:
        nodes = [node for name in in_floats for node in units[name]]
        return error(_quantize(prepared, result, images, nodes_to_exclude=nodes))

    found = tried([])
    if found <= bound:
        return result, {"int8_error": found, "float_layers": []}
    damage = {
        name: error(_quantize(prepared, result, images, nodes_to_quantize=nodes))
        for name, nodes in track(list(units.items()), "Measuring what int8 does to each layer")
    }
    order = sorted(units, key=damage.__getitem__, reverse=True)
    too_few, enough = 0, len(order)
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if tried(order[:middle]) <= bound else (middle, enough)
    return result, {"int8_error": tried(order[:enough]), "float_layers": order[:enough]}


def _units(file: Path) -> dict[str, list[str]]:
    """Return the nodes that become int8 or stay in floats together, by the name of their layer; name all nodes."""
    import onnx

    graph, units, others = onnx.load(file), {}, []
    for number, node in enumerate(graph.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
        if node.op_type in LAYERS:
            units[node.name] = [node.name]
        else:
            others.append(node.name)
    onnx.save(graph, file)
    return units | ({"all that is no layer": others} if others else {})


def _errors(file: Path, images: Sequence[np.ndarray]) -> Callable[[Path], float]:
    """Return what measures how far a file's outputs are from those of the float file."""
    asked = _answers(file, images)

    def error(other: Path) -> float:
        worst = 0.0
        for true, found in zip(asked, _answers(other, images), strict=True):
            spread = np.square(true - (true.mean(axis=0) if len(true) > 1 else 0)).mean()
            worst = max(worst, float(np.square(found - true).mean() / max(spread, np.finfo(float).tiny)))
        return worst

    return error


def _answers(file: Path, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    call = open_onnx(file, threads=0)  # as many as there are cores
    return [np.concatenate(outputs).astype(float) for outputs in zip(*map(call, images), strict=True)]


def _quantize(file: Path, to: Path, images: Sequence[np.ndarray], **nodes: list[str]) -> Path:
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
        **nodes,
    )
    return to
