"""First-order Taylor importance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_compress.steps.pruning.score.registry import register_importance

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hf_compress.steps.pruning.score.calibration import Calibration
    from hf_compress.steps.pruning.tracing.groups import Group


@register_importance("taylor", needs_images=True)
def taylor(model: nn.Module, groups: list[Group], calibration: Calibration) -> dict[str, Tensor]:
    """Squared change of the loss, to first order, when a unit is set to zero; the mean over calibration batches.

    The change is the sum of gradient times weight over all parameters of the unit: in the layers that make it, the
    norms that scale it and the layers that read it (Molchanov et al., 2019, "Importance Estimation for Neural Network
    Pruning", equation 8).
    """
    scores: dict[str, Tensor] = {}
    batches = 0
    for gradients in calibration.gradients(model):
        batches += 1
        for group in groups:
            changes = [
                member.sums(member.tensor(model).detach() * gradients[member.name])
                for member in group.members
                if member.name in gradients
            ]
            scores[group.name] = scores.get(group.name, 0) + sum(changes).square()
    return {name: total / batches for name, total in scores.items()}
