"""Pruning and distillation for Intel Neural Compressor 3.10.

Importing this package registers the algorithms `prune`, `distill` and `quantize` (training for int8) with Neural
Compressor's PyTorch API; their configs have the options of the recipe steps of the same names. What comes out is an
ordinary model in floats, which Neural Compressor quantizes like any other.
"""

from importlib.util import find_spec
from pathlib import Path

from hf_compress.ground.errors import UsageError

found = find_spec("neural_compressor")
if found is None:
    raise UsageError("Neural Compressor is not installed: pip install 'hf-compress[neural-compressor]'")
if any((Path(folder) / "training.py").is_file() for folder in found.submodule_search_locations or ()):
    raise UsageError(
        "Neural Compressor 3.7.1 or older is installed, which has its own pruning and distillation and is not "
        "supported here: keep to `neural_compressor.training`, or install neural-compressor-pt 3.10 in its place"
    )

from hf_compress.adapters.neural_compressor.calls import (  # noqa: E402
    autotune,
    convert,
    distillation_loss,
    next_round,
    prepare,
    quantize,
)
from hf_compress.adapters.neural_compressor.configs import (  # noqa: E402
    Composition,
    DistillConfig,
    PruneConfig,
    QuantizeConfig,
)

__all__ = [
    "Composition",
    "DistillConfig",
    "PruneConfig",
    "QuantizeConfig",
    "autotune",
    "convert",
    "distillation_loss",
    "next_round",
    "prepare",
    "quantize",
]
