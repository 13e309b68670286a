"""The moving average of the weights of a training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import TrainerCallback


class AverageWeights(TrainerCallback):
    """Averages weights and statistics over the steps of a training, exponentially (Polyak and Juditsky, 1992).

    Early in a training the average forgets faster: in step t, at most (1 + t) / (10 + t) of it stays.

    Args:
        share: of the average that stays in a step.

    Attributes:
        values: the average by the names of the model's tensors; empty before the training.
    """

    def __init__(self, share: float):
        self.share = share
        self.values: dict[str, Tensor] = {}
        self._tensors: dict[str, Tensor] = {}

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self._tensors = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
        self.values = self.values or {name: tensor.clone() for name, tensor in self._tensors.items()}
        self.values = {name: self.values[name].to(tensor.device) for name, tensor in self._tensors.items()}

    def on_step_end(self, args, state, control, **kwargs):
        share = min(self.share, (1 + state.global_step) / (10 + state.global_step))
        torch._foreach_lerp_(list(self.values.values()), list(self._tensors.values()), 1 - share)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let the model have the average in a `with` block."""
        own = {name: tensor.clone() for name, tensor in self._tensors.items()}
        for name, tensor in self._tensors.items():
            tensor.copy_(self.values[name])
        try:
            yield
        finally:
            for name, tensor in self._tensors.items():
                tensor.copy_(own[name])
