"""Batch-norm momentum that was copied from TensorFlow."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel


def use_torch_momentum(model: PreTrainedModel) -> None:
    """Undo a batch-norm momentum that was copied from TensorFlow, where it means 1 - momentum.

    With 0.997, as in transformers' MobileNetV2, the running statistics are those of the last batch alone, and a model
    that was trained further is evaluated with them.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and (module.momentum or 0) > 0.5:
            module.momentum = 0.1
