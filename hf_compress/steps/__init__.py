"""The steps of a recipe. Importing this package registers the built-in ones; it does not import torch."""

from hf_compress.steps import distillation, feature_distillation, finetuning, pruning, quantization, rewriting
from hf_compress.steps.base import STEPS, Step, StepResult, register_step
from hf_compress.training.context import Context

__all__ = [
    "STEPS",
    "Context",
    "Step",
    "StepResult",
    "distillation",
    "feature_distillation",
    "finetuning",
    "pruning",
    "quantization",
    "register_step",
    "rewriting",
]
