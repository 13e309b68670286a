"""Static int8 of LiteRT files, by Google's AI Edge Quantizer; layers that would do too much damage stay in floats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_compress.device.opening import open_litert
from hf_compress.ground.progress import unheard
from hf_compress.runtimes.base import INPUT, Exportable
from hf_compress.runtimes.int8.fallback import OTHERS, divergence, write_bearable

LAYERS = {"CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED", "BATCH_MATMUL"}


def write_int8(model: Exportable, floats: Path, to: Path) -> dict[str, Any]:
    """Write a file in int8 as far as its outputs bear it; it takes and gives floats.

    Returns:
        What `write_bearable` tells for the report; a layer is named by its operation and the place of that.
    """
    images = [image.numpy() for image in model.calibration]
    error = divergence(model.outputs, open_litert(floats, 1), partial(open_litert, to, 1), images)
    return write_bearable(_units(floats), partial(_quantize, floats, to, _ranges(floats, images)), error)


def _units(file: Path) -> dict[str, list[str]]:
    """Return the scopes of each layer's operations, and of the others."""
    from ai_edge_quantizer.utils import tfl_flatbuffer_utils as flatbuffer

    graph = flatbuffer.read_model(str(file))
    units: dict[str, list[str]] = {}
    for subgraph in graph.subgraphs:
        for place, operation in enumerate(subgraph.operators):
            code = graph.operatorCodes[operation.opcodeIndex].builtinCode
            kind = flatbuffer.TFL_OP_CODE_TO_NAME.get(code)
            layer = f"{kind.value} {place}" if kind in LAYERS else OTHERS
            units.setdefault(layer, []).append(flatbuffer.get_op_scope(operation, subgraph.tensors))
    return units


def _ranges(file: Path, images: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return the least and the greatest value of every tensor: the quantizer's own average cuts rare logits off."""
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.recipe import static_wi8_ai8
    from ai_edge_quantizer.recipe_manager import RecipeManager
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    everything = RecipeManager()
    everything.load_quantization_recipe(static_wi8_ai8())
    with unheard():
        calibrator = Calibrator(str(file), num_threads=1, qsv_update_func=min_max_update)
        (signature,) = calibrator.get_signature_list()
        calibrator.calibrate({signature: [{INPUT: image} for image in images]}, everything)
    return calibrator.get_model_qsvs()


def _quantize(file: Path, to: Path, ranges: dict[str, Any], in_floats: list[str]) -> None:
    """Write an int8 file: weights per channel, activations with these ranges."""
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.quantizer import Quantizer
    from ai_edge_quantizer.recipe import static_wi8_ai8

    quantizer = Quantizer(str(file), static_wi8_ai8())
    stays = partial(quantizer.update_quantization_recipe, algorithm_key=AlgorithmName.NO_QUANTIZE)
    stays(".*", TFLOperationName.INPUT)
    stays(".*", TFLOperationName.OUTPUT)
    if in_floats:
        stays(f"^({'|'.join(map(re.escape, in_floats))})$", TFLOperationName.ALL_SUPPORTED)
    with unheard():
        made = quantizer.quantize(ranges, enable_progress_report=False)
    to.write_bytes(made.quantized_model)
