"""A model as runtimes take it, and a runtime's file as what takes a model wants it."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from hf_compress.ground.looking import twin
from hf_compress.ground.outputs import deployed_tensors
from hf_compress.models.folding import fold_batch_norms
from hf_compress.runtimes.base import Call, Exportable


class TensorsAlone(nn.Module):
    """A model as exporters want it: one tensor in, a tensor out, or a tuple of several, whose names are `outputs`."""

    def __init__(self, model: PreTrainedModel, image: Tensor):
        super().__init__()
        self.model = model
        self.eval()
        with torch.no_grad():
            self.outputs = list(deployed_tensors(model(pixel_values=image)))

    def forward(self, pixel_values: Tensor) -> Tensor | tuple[Tensor, ...]:
        output = self.model(pixel_values=pixel_values)
        made = tuple(output[name] for name in self.outputs)
        return made if len(made) > 1 else made[0]


class DeployedModel(nn.Module):
    """A file in its runtime, called like the model it was written from; `batches`: it takes several images at once.

    `told` is what its runtime tells of the writing.
    """

    def __init__(self, call: Call, outputs: list[str], model: PreTrainedModel, batches: bool):
        super().__init__()
        self.call = partial(call)  # a call that is a module would become a part of this one
        self.outputs, self.batches = outputs, batches
        self.told: dict[str, Any] = {}
        self.model = twin(model)  # names of parameters tell what kind of model it is

    def __deepcopy__(self, memo: dict) -> DeployedModel:
        return self  # what a runtime has loaded cannot be copied, nor changed

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ModelOutput:
        images = pixel_values.cpu().contiguous()
        made = [self.call(part.numpy()) for part in images.split(len(images) if self.batches else 1)]
        joined = (torch.from_numpy(np.concatenate(parts)).to(pixel_values.device) for parts in zip(*made, strict=True))
        return ModelOutput(zip(self.outputs, joined, strict=True))


def exportable(model: PreTrainedModel, image: Tensor) -> Exportable:
    """Return a copy of a model ready for export: batch norms folded, all the tensors that it gives as outputs.

    `image` is one input, shape (1, 3, height, width).
    """
    model = fold_batch_norms(model, image)
    for weight in model.parameters():  # ExecuTorch takes no channels-last kernels, as a training leaves them
        weight.data = weight.flatten().view(weight.shape)
    module = TensorsAlone(model, image)
    return Exportable(module, module.outputs, image)
