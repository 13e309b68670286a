"""Pruning and distillation for Intel Neural Compressor 3.10.

Importing this package registers the algorithms `prune` and `distill` with Neural Compressor's PyTorch API; their
configs have the options of the recipe steps of the same names. `WeightPruningConfig`, `DistillationConfig` and
`prepare_compression` are the vocabulary that Neural Compressor had until 3.7.1.
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
from hf_compress.adapters.neural_compressor.legacy import (  # noqa: E402
    CompressionManager,
    DistillationConfig,
    IntermediateLayersKnowledgeDistillationLossConfig,
    KnowledgeDistillationLossConfig,
    QuantizationAwareTrainingConfig,
    SelfKnowledgeDistillationLossConfig,
    WeightPruningConfig,
    prepare_compression,
)

__all__ = [
    "Composition",
    "CompressionManager",
    "DistillConfig",
    "DistillationConfig",
    "IntermediateLayersKnowledgeDistillationLossConfig",
    "KnowledgeDistillationLossConfig",
    "PruneConfig",
    "QuantizationAwareTrainingConfig",
    "SelfKnowledgeDistillationLossConfig",
    "WeightPruningConfig",
    "autotune",
    "convert",
    "distillation_loss",
    "next_round",
    "prepare",
    "prepare_compression",
    "quantize",
]
