"""Optimal brain surgeon over units."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_compress.steps.pruning.score.registry import register_importance

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hf_compress.steps.pruning.score.calibration import Calibration
    from hf_compress.steps.pruning.tracing.groups import Group


@register_importance("obs", needs_images=True, compares=True)
def obs(model: nn.Module, groups: list[Group], calibration: Calibration) -> dict[str, Tensor]:
    """What the model's outputs lose when a unit goes and its readers make up for it with what they still read.

    Units go from each group one after the other, by the error that this leaves in what their readers give (Frantar and
    Alistarh, 2022, "Optimal Brain Compression"; over channels: Kurtic et al., 2023, "ZipLM"), which sees what others
    can replace. That error is brought to the scale of the outputs by a measurement, without half of the group.
    Labels play no part.
    """
    from hf_compress.steps.pruning.score.surgeon import output_losses

    return output_losses(model, groups, calibration)
