"""Which entries, or slices, of weights stay: selection without sorting."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor

SAMPLE = 2**20  # scores


def keep_masks(
    scores: dict[str, Tensor], scope: str, amount: float, floor: float, amounts: dict[str, float] | None = None
) -> dict[str, Tensor]:
    """Return, for every layer, False where its scores are among the lowest.

    Args:
        scores: importance of each entry (or slice), of any shape; -inf where it is gone already.
        scope: compare in a `layer`, or across all (`global`).
        amount: fraction that becomes False.
        floor: fraction of each layer that stays True.
        amounts: with scope `layer`, the fraction of each layer instead of `amount`.
    """
    if scope == "global":
        return _global_masks(scores, amount, floor)
    amounts = amounts or dict.fromkeys(scores, amount)
    return {name: _mask(values, min(amounts[name], 1 - floor)) for name, values in scores.items()}


def _mask(scores: Tensor, amount: float) -> Tensor:
    """Return False at the `amount` lowest scores."""
    return ~_lowest(scores.flatten(), round(amount * scores.numel())).view(scores.shape)


def _global_masks(scores: dict[str, Tensor], amount: float, floor: float) -> dict[str, Tensor]:
    """Compare the scores of all layers, keeping the `floor` best of each out of the competition.

    What is gone already never stays: else more would go elsewhere in its place.
    """
    sizes = [values.numel() for values in scores.values()]
    competing = torch.cat([values.flatten() for values in scores.values()])
    for values in competing.split(sizes) if floor else ():
        best = ~_lowest(values, len(values) - round(floor * len(values)))
        values.masked_fill_(best & (values > -torch.inf), torch.inf)
    parts = _mask(competing, min(amount, 1 - floor)).split(sizes)
    return {name: part.view(values.shape) for (name, values), part in zip(scores.items(), parts, strict=True)}


def _lowest(scores: Tensor, count: int) -> Tensor:
    """Return True at exactly `count` of the lowest of `scores`, shape (entries,), the first ones among equals.

    Selects instead of sorting: the time is linear in the number of entries.
    """
    if not count:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = _kth_lowest(scores, count)
    lowest = scores < threshold
    equal = (scores == threshold).nonzero().squeeze(1)
    lowest[equal[: count - int(torch.count_nonzero(lowest))]] = True
    return lowest


def _kth_lowest(scores: Tensor, k: int) -> float:
    """Return the k-th lowest score.

    A sample brackets it, so that only the scores in between are copied and selected from (Floyd and Rivest, 1975,
    "Expected time bounds for selection"). Where the bracket misses it, all are.
    """
    if scores.is_cuda:
        return scores.kthvalue(k).values.item()
    if len(scores) > 4 * SAMPLE:
        sample = scores[:: len(scores) // SAMPLE]
        rank, slack = round(k / len(scores) * len(sample)), 4 * isqrt(len(sample))  # eight standard deviations
        lower = _partitioned(sample, max(1, rank - slack))
        upper = _partitioned(sample, min(len(sample), rank + slack))
        below = sum(int(torch.count_nonzero(part < lower)) for part in scores.split(SAMPLE))
        between = torch.cat([part[(part >= lower) & (part <= upper)] for part in scores.split(SAMPLE)])
        if below < k <= below + len(between):
            return _partitioned(between, k - below)
    return _partitioned(scores, k)


def _partitioned(scores: Tensor, k: int) -> float:
    """Return the k-th lowest score by NumPy, whose selection uses the processor's vectors."""
    scores = scores.float() if scores.dtype is torch.bfloat16 else scores  # unknown to NumPy
    copy = scores.numpy(force=True).copy()
    copy.partition(k - 1)
    return copy[k - 1].item()


def pattern_mask(scores: Tensor, n: int, m: int) -> Tensor:
    """Return True at the `n` highest of each `m` neighbouring scores along dimension 1, the input dimension.

    Among equals the last ones are kept, as `keep_masks` does.

    Args:
        scores: shape (outputs, inputs, ...), inputs a multiple of `m`.
    """
    blocks = scores.movedim(1, -1)
    best = blocks.reshape(-1, m).argsort(dim=1, stable=True)[:, m - n :]
    mask = torch.zeros(blocks.numel() // m, m, dtype=torch.bool, device=scores.device).scatter_(1, best, True)
    return mask.reshape(blocks.shape).movedim(-1, 1)
