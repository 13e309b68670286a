"""The places of an image at which a detector asks, where it selects them: what a teacher chose, a student is asked.

A model that selects its queries from the image (RT-DETR, D-FINE, DEIM) orders them by score, so that the same query is
another place in every model. Asked at the places of the teacher, the student answers query by query: distillation
points that both share (Wang et al., "KD-DETR", CVPR 2024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns of a map of features, each of whose places may become a query."""


def selects(config: Any) -> bool:
    """Return whether a model of a config selects its queries from each image."""
    return bool(getattr(config, "two_stage", False)) or hasattr(config, "learn_initial_query")


def grids(config: Any, pixel_values: Tensor) -> list[Grid]:
    """Return the maps from which a model selects its queries; none where its config does not tell their sizes."""
    height, width = pixel_values.shape[-2:]
    strides = getattr(config, "feat_strides", None) or []
    told = selects(config) and len(strides) == getattr(config, "num_feature_levels", 0)
    exact = not any(height % stride or width % stride for stride in strides)
    return [(height // stride, width // stride) for stride in strides] if told and exact else []


def places(chosen: Tensor, maps: list[Grid]) -> Tensor:
    """Return where the chosen places lie, whatever the size of the image.

    Args:
        chosen: indices into the places of all maps, row by row, shape (images, queries).

    Returns:
        shape (images, queries, 3): the number of the map, and the middle's height and width between 0 and 1.
    """
    import torch

    every = [
        torch.stack([torch.full((rows * columns,), float(level)), *_middles(rows, columns)], dim=-1)
        for level, (rows, columns) in enumerate(maps)
    ]
    return torch.cat(every).to(chosen.device)[chosen]


def at_places(wanted: Tensor, maps: list[Grid]) -> Tensor:
    """Return the indices of the places of other maps at which those lie that `places` gave, (images, queries)."""
    import torch

    sizes = torch.tensor(maps, device=wanted.device)
    starts = sizes.prod(dim=1).cumsum(0) - sizes.prod(dim=1)
    level = wanted[..., 0].long()
    rows, columns = (wanted[..., 1:] * sizes[level]).long().unbind(dim=-1)
    return starts[level] + rows * sizes[level][..., 1] + columns


def _middles(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    import torch

    down, across = ((torch.arange(number) + 0.5) / number for number in (rows, columns))
    return down.repeat_interleave(columns), across.repeat(rows)
