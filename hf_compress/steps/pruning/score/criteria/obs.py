"""Optimal brain surgeon over channels and entries of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_compress.steps.pruning.score.registry import register_importance

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hf_compress.steps.pruning.score.calibration import Calibration
    from hf_compress.steps.pruning.tracing.groups import Group


@register_importance("obs", needs_images=True, compares=True)
def obs(model: nn.Module, groups: list[Group], calibration: Calibration) -> dict[str, Tensor]:
    """The error that is left in what a unit's readers give when it goes, and they make up for it with what they read.

    Units go from each group one after the other, the least missed first (Frantar and Alistarh, 2022, "Optimal Brain
    Compression"; over channels: Kurtic et al., 2023, "ZipLM"), so that of two that can replace each other one goes
    early. Errors count behind a layer's batch norm and scale, where they meet what other layers give. Labels play no
    part.

    Where entries of weights are the units, one goes and the others of its row make up for it; errors count by what
    they do to the model's outputs.
    """
    from hf_compress.steps.pruning.score.entries import entry_losses
    from hf_compress.steps.pruning.score.surgeon import surgeon_losses

    of_weights = all(group.is_weight for group in groups)
    return (entry_losses if of_weights else surgeon_losses)(model, groups, calibration)
