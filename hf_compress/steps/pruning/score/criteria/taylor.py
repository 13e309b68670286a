"""First-order Taylor importance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_compress.steps.pruning.score.registry import register_importance

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hf_compress.steps.pruning.score.calibration import Calibration
    from hf_compress.steps.pruning.tracing.groups import Group


@register_importance("taylor", needs_images=True, compares=True)
def taylor(model: nn.Module, groups: list[Group], calibration: Calibration) -> dict[str, Tensor]:
    """Squared change of the loss, to first order, when a unit is set to zero; the mean over calibration batches.

    A unit is gone when no layer reads it, so the change is the sum of gradient times weight over all that the group's
    readers weigh it with (Molchanov et al., 2019, "Importance Estimation for Neural Network Pruning", equation 8, with
    the gate where the unit is read).
    """
    scores: dict[str, Tensor] = {}
    batches = 0
    for gradients in calibration.gradients(model):
        batches += 1
        for group in groups:
            changes = [
                member.sums(member.tensor(model).detach() * gradients[member.name])
                for member in group.members
                if member.reads
            ]
            scores[group.name] = scores.get(group.name, 0) + sum(changes).square()
    return {name: total / batches for name, total in scores.items()}
