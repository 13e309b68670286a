"""Does an exported model say the same as PyTorch, and how fast?"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_compress.checkpoint.export.base import Call
from hf_compress.measure.quality import quality


def logits(call: Call, inputs: Tensor, in_batches: bool) -> Tensor:
    """Return the logits for `inputs` (images, 3, height, width), one image at a time where a runtime wants that."""
    with torch.inference_mode():
        parts = inputs.split(len(inputs) if in_batches else 1)
        return torch.cat([call(part).clone() for part in parts])


def compare(expected: Tensor, found: Tensor, labels: Tensor | None) -> dict[str, Any]:
    """Compare two sets of logits, each of shape (images, classes).

    Returns:
        `max_difference` (largest absolute difference of a logit), `top1_agreement` (fraction of the images with one
        and the same best class), and with labels the quality of `found`.
    """
    return {
        "max_difference": (expected - found).abs().max().item(),
        "top1_agreement": (expected.argmax(dim=1) == found.argmax(dim=1)).float().mean().item(),
        **({} if labels is None else quality(found, labels)),
    }
