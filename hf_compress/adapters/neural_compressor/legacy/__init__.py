"""The vocabulary of Neural Compressor 3.7.1 and older: a script for it runs after one changed import line."""

from hf_compress.adapters.neural_compressor.legacy.configs import (
    DistillationConfig,
    IntermediateLayersKnowledgeDistillationLossConfig,
    KnowledgeDistillationLossConfig,
    QuantizationAwareTrainingConfig,
    SelfKnowledgeDistillationLossConfig,
    WeightPruningConfig,
)
from hf_compress.adapters.neural_compressor.legacy.manager import CompressionManager, prepare_compression

__all__ = [
    "CompressionManager",
    "DistillationConfig",
    "IntermediateLayersKnowledgeDistillationLossConfig",
    "KnowledgeDistillationLossConfig",
    "QuantizationAwareTrainingConfig",
    "SelfKnowledgeDistillationLossConfig",
    "WeightPruningConfig",
    "prepare_compression",
]
