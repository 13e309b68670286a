"""Weight pruning: which entries become zero."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn

from hf_compress.errors import RunError
from hf_compress.steps.pruning.config import CRITERIA, PruneConfig
from hf_compress.steps.pruning.importance import require_finite
from hf_compress.steps.pruning.shares import shares_for_budget

SAMPLE = 2**20  # scores
PRUNABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def prunable_weights(model: nn.Module, exclude: set[str]) -> dict[str, nn.Parameter]:
    """Return the weights of convolutions and linear layers by parameter name.

    One that several layers share is there once, and not at all where one of them is excluded.

    Raises:
        RunError: there are none.
    """
    layers = {name: module.weight for name, module in model.named_modules() if isinstance(module, PRUNABLE)}
    seen = {id(weight) for name, weight in layers.items() if name in exclude}
    weights = {}
    for name, weight in layers.items():
        if id(weight) not in seen:
            weights[f"{name}.weight"] = weight
        seen.add(id(weight))
    if not weights:
        raise RunError("nothing can be pruned: the model has no convolution or linear layer outside 'exclude'")
    return weights


def prune_weights(weights: dict[str, nn.Parameter], config: PruneConfig, amount: float) -> None:
    """Set the least important entries to zero, in place.

    Without `floor` the zeros are those of `torch.nn.utils.prune`: `l1_unstructured` (scope `layer`),
    `global_unstructured` (scope `global`) and `ln_structured` (`dim`).

    Args:
        amount: fraction of all entries (or slices along `dim`) that are zero afterwards, entries that were zero before
            included.

    Raises:
        RunError: the criterion gives a score that is not finite.
    """
    amounts = dict.fromkeys(weights, amount)
    if config.sensitivity:
        amounts = shares_for_budget(config.sensitivity, {n: weight.numel() for n, weight in weights.items()}, amount)
    with torch.no_grad():
        scores = {name: unpruned_scores(name, weight, config) for name, weight in weights.items()}
        masks = keep_masks(scores, config.scope, amount, config.floor, amounts)
        for name, weight in weights.items():
            mask = masks[name]
            if config.dim is not None:
                mask = mask.reshape([-1 if axis == config.dim else 1 for axis in range(weight.dim())])
            weight.masked_fill_(~mask, 0)


def unpruned_scores(name: str, weight: Tensor, config: PruneConfig) -> Tensor:
    """Return the importance of each entry, or slice along `config.dim`; -inf where all is zero already.

    What is pruned is thus gone under every criterion, whatever score that gives to zeros.

    Raises:
        RunError: the criterion gives a score that is not finite.
    """
    dim = config.dim
    scores = CRITERIA.get(config.importance)(weight, dim, config.n)
    require_finite(scores, config.importance, name)
    if torch.count_nonzero(weight) == weight.numel():
        return scores
    gone = weight == 0 if dim is None else (weight.transpose(0, dim).flatten(1) == 0).all(dim=1)
    return scores.masked_fill(gone, -torch.inf)


def sparsity(weights: dict[str, nn.Parameter]) -> float:
    """Return the fraction of entries that are zero."""
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    return zeros / sum(weight.numel() for weight in weights.values())


def keep_masks(
    scores: dict[str, Tensor], scope: str, amount: float, floor: float, amounts: dict[str, float] | None = None
) -> dict[str, Tensor]:
    """Return, for every layer, False where its scores are among the lowest.

    Args:
        scores: importance of each entry (or slice, or block), of any shape; -inf where it is gone already.
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
