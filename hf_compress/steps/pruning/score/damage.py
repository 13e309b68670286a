"""Scope `damage`: what goes with units of different groups compares by what the model's outputs lose, as measured.

An error of a layer says little about the outputs: thin layers before a detector's boxes bear nothing, wide ones in its
backbone much. So of each group some units go for a look, those who read them make up for them, and the model is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from hf_compress.ground.choices import Choices
from hf_compress.ground.looking import twin
from hf_compress.ground.processor import fastest_device, full_float32
from hf_compress.ground.progress import track
from hf_compress.losses.logits import kl
from hf_compress.sections.distillation import LossOptions
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.surgeon import GroupReader, readers_of
from hf_compress.steps.pruning.tracing.groups import Group

LOOKED_AT = 16  # images
SHARES = (0.125, 0.25, 0.5)
LEAST = 1e-9


@full_float32()
def by_damage(
    model: nn.Module, groups: list[Group], scores: dict[str, Tensor], calibration: Calibration
) -> dict[str, Tensor]:
    """Return scores times a factor for each group, with which their sums are what the outputs lose.

    The factor is the geometric mean, over an eighth, a quarter and a half of the group's units, the lowest scores
    first, of the distance between outputs to the sum of these scores. The distance is that of the task's
    distillation, with the loss `kl`.

    Args:
        model: stays as it is.
        scores: by group, shape (units,).
    """
    looked = twin(model).to(fastest_device())
    outputs = _Outputs(looked, calibration)
    factors = {}
    for group, readers in track(readers_of(looked, groups, calibration), "Measuring damage", len(groups)):
        factors[group.name] = _factor(scores[group.name], readers, lambda: outputs.distance(looked))
    return {name: found * factors[name] for name, found in scores.items()}


class _Outputs:
    """What a model says to a few images, and how far from that it is when it was changed."""

    def __init__(self, model: nn.Module, calibration: Calibration):
        self._task, self._choices = calibration.task, Choices()
        few = replace(calibration, images=Subset(calibration.images, range(min(LOOKED_AT, len(calibration.images)))))
        self._images = list(few.pixel_values())
        with torch.no_grad(), self._choices.recorded():
            self._said = [self._task.answer(model, images) for images in self._images]

    @torch.no_grad()
    def distance(self, model: nn.Module) -> float:
        with self._choices.repeated():
            return sum(
                self._task.compare(_divergence, self._task.answer(model, images), said, {}).item()
                for images, said in zip(self._images, self._said, strict=True)
            ) / len(self._images)


def _divergence(said: Tensor, before: Tensor, labels: Tensor | None) -> Tensor:
    return kl(said, before, labels, LossOptions(loss="kl", temperature=1))


def _factor(scores: Tensor, readers: list[GroupReader], distance: Callable[[], float]) -> float:
    order = scores.argsort(stable=True).to(readers[0].indices.device)
    sums = scores.double().sort().values.cumsum(0)
    logarithms, gone = [], 0
    for share in SHARES:
        count = max(1, round(share * len(order)))
        if count == gone or sums[count - 1] <= 0:
            continue
        for reader in readers:
            reader.remove(order[gone:count])
            reader.show()
        logarithms.append(torch.tensor(max(distance(), LEAST)).log() - sums[count - 1].log())
        gone = count
    for reader in readers:
        reader.restore()
    return torch.stack(logarithms).mean().exp().item() if logarithms else 1.0
