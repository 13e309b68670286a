"""Static int8 of LiteRT files, by Google's AI Edge Quantizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hf_compress.runtimes.base import INPUT

if TYPE_CHECKING:
    from torch import Tensor


def write_int8(floats: Path, to: Path, images: Sequence[Tensor]) -> None:
    """Write an int8 file that takes and gives floats: weights per channel, activations with the images' ranges."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import qtyping, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.quantizer import Quantizer

    quantizer = Quantizer(floats, recipe.static_wi8_ai8())
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        quantizer.update_quantization_recipe(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    (signature,) = Interpreter(str(floats)).get_signature_list()
    ranges = quantizer.calibrate({signature: [{INPUT: image.numpy()} for image in images]}, num_threads=1)
    quantizer.quantize(ranges, enable_progress_report=False).export_model(to)
