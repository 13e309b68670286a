"""Pruning and distillation for Intel Neural Compressor 3.10.

Importing this package registers the algorithms `prune` and `distill` with Neural Compressor's PyTorch API; their
configs have the options of the recipe steps of the same names. What comes out is an ordinary model, which Neural
Compressor quantizes like any other.
"""

from hf_compress.adapters.neural_compressor.installed import require_supported

require_supported()

from hf_compress.adapters.neural_compressor import entries  # noqa: E402, F401  (registers the algorithms)
from hf_compress.adapters.neural_compressor.calls import (  # noqa: E402
    autotune,
    convert,
    distillation_loss,
    next_round,
    prepare,
    quantize,
)
from hf_compress.adapters.neural_compressor.composition import Composition  # noqa: E402
from hf_compress.adapters.neural_compressor.configs import DistillConfig, PruneConfig  # noqa: E402

__all__ = [
    "Composition",
    "DistillConfig",
    "PruneConfig",
    "autotune",
    "convert",
    "distillation_loss",
    "next_round",
    "prepare",
    "quantize",
]
