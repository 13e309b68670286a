"""Several classifiers as one teacher."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import ImageClassifierOutput

from hf_compress.data.images import preprocess
from hf_compress.models.load import LoadedModel


class Ensemble(nn.Module):
    """The mean of the softmax outputs of several classifiers.

    Args:
        members: classifiers with the same labels.
        orders: for each member, the index of every class of the first among its own logits.
    """

    def __init__(self, members: list[nn.Module], orders: list[list[int]]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.orders = orders

    def extra_repr(self) -> str:
        return f"orders={self.orders}"

    def forward(self, pixel_values: tuple[Tensor, ...]) -> ImageClassifierOutput:
        """Return the logarithm of the mean as `logits` (batch, classes): its softmax is the mean itself.

        Args:
            pixel_values: the same images as each member's own processor makes them.
        """
        own = [member(pixel_values=view).logits for member, view in zip(self.members, pixel_values, strict=True)]
        logs = [logits[:, order].float().log_softmax(dim=-1) for logits, order in zip(own, self.orders, strict=True)]
        return ImageClassifierOutput(logits=torch.stack(logs).logsumexp(dim=0) - math.log(len(logs)))


class EnsembleProcessor:
    """Makes the `pixel_values` of an ensemble: the same views in each member's own size and normalisation."""

    def __init__(self, processors: list[Any]):
        self.processors = processors

    def __call__(self, views: list[Tensor], return_tensors: str = "pt") -> dict[str, tuple[Tensor, ...]]:
        return {"pixel_values": tuple(preprocess(processor, views) for processor in self.processors)}

    def to_dict(self) -> dict[str, Any]:
        return {"processors": [processor.to_dict() for processor in self.processors]}


@dataclass
class LoadedEnsemble(LoadedModel):
    """An ensemble with the models it is made of."""

    parts: list[LoadedModel] = field(default_factory=list)

    @property
    def label_names(self) -> list[str]:
        return self.parts[0].label_names

    @property
    def members(self) -> list[LoadedModel]:
        return self.parts


def as_one(members: list[LoadedModel], orders: list[list[int]]) -> LoadedEnsemble:
    """Return the ensemble of loaded classifiers; see `Ensemble` for `orders`."""
    return LoadedEnsemble(
        Ensemble([member.model for member in members], orders).eval(),
        EnsembleProcessor([member.processor for member in members]),
        f"ensemble of {len(members)} models",
        parts=members,
    )
