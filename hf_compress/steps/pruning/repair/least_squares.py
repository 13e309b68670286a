"""Repair in closed form: layer by layer, a pruned model answers again as the unpruned one does.

He et al., 2017, "Channel Pruning for Accelerating Very Deep Neural Networks": in the order of the forward pass, each
layer's weights become those with which its output, made of what the repaired layers before it give, is nearest to the
unpruned model's. Where that output is added to another, it also makes up for what the other lacks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from hf_compress.ground.processor import full_float32
from hf_compress.ground.progress import track
from hf_compress.steps.pruning.remove.removal import Kept
from hf_compress.steps.pruning.repair.linear import as_matrix, columns, output_dim, rows, set_matrix
from hf_compress.steps.pruning.repair.lockstep import Key, Lockstep, Pass
from hf_compress.steps.pruning.repair.moments import Moments
from hf_compress.steps.pruning.repair.places import Place, find_places
from hf_compress.steps.pruning.repair.spilling import Spilling
from hf_compress.steps.pruning.tracing.groups import maker_dim

SAMPLES = 2**18  # enough for a layer: of pictures that have many positions, few are needed
MOST_INPUTS = 2**13
LEAST_GAIN = 1e-3
MOST_BYTES = 3 * 2**27


@full_float32()
def least_squares(
    unpruned: nn.Module,
    pruned: nn.Module,
    kept: Kept,
    batches: Iterable[Tensor],
    sparse: Collection[str] = (),
    only: Collection[str] | None = None,
) -> dict[str, str]:
    """Repair `pruned` in place, and return the layers that stay as they are, with the reason.

    Both models go through the images side by side, one forward pass each in all. A layer takes as many images as make
    262,144 samples (an output pixel, or a token, is one). Of what the passes have made at most 384 MiB are in
    the CPU's memory, however many images there are; the rest waits in temporary files.

    Args:
        unpruned: the model before units went; in eval mode, as `pruned`.
        kept: which indices `pruned` still has of it.
        batches: images of shape (batch, 3, height, width).
        sparse: parameters whose zeros stay zero.
        only: layers to repair; all when not given.
    """
    batches = iter(batches)
    first = next(batches)
    places, stay = find_places(pruned, first)
    places = [place for place in places if only is None or place.layer in only]
    wide = [place for place in places if as_matrix(pruned.get_submodule(place.layer)).shape[2] > MOST_INPUTS]
    stay |= {place.layer: f"it has more than {MOST_INPUTS:,} inputs" for place in wide}
    places = [place for place in places if place.layer not in stay]
    whole_skips = {place.layer: place.skip for place in find_places(unpruned, first)[0]}
    skips = [
        {place.layer: whole_skips.get(place.layer) for place in places},
        {place.layer: place.skip for place in places},
    ]
    with Spilling(MOST_BYTES), Lockstep((unpruned, pruned)) as lockstep:
        _solve_in_turn(lockstep, (unpruned, pruned), chain([first], batches), places, skips, kept, sparse)
    return stay


def _solve_in_turn(
    lockstep: Lockstep,
    models: tuple[nn.Module, nn.Module],
    images: Iterator[Tensor],
    places: list[Place],
    skips: list[dict[str, Key | None]],
    kept: Kept,
    sparse: Collection[str],
) -> None:
    pairs: list[tuple[Pass, ...]] = []
    for place in track(places, "Repairing"):
        layer = models[1].get_submodule(place.layer)
        moments = Moments()
        for pair in pairs:
            _add(moments, place, layer, *pair, kept)
        while moments.count < SAMPLES and (batch := next(images, None)) is not None:
            leader = lockstep.start(models[0], batch, skips[0])
            pairs.append((leader, lockstep.start(models[1], batch, skips[1], leader)))
            _add(moments, place, layer, *pairs[-1], kept)
        if moments.energy:
            _change(place, layer, moments, f"{place.layer}.weight" in sparse)
            for _, half in pairs:
                half.output = layer.forward(half.source)
        for later in skips:
            later.pop(place.layer, None)


def _add(moments: Moments, place: Place, layer: nn.Module, whole: Pass, half: Pass, kept: Kept) -> None:
    whole.to(place.layer)
    half.to(place.layer)
    moments.add(columns(layer, half.source), rows(layer, _missing(place, layer, whole, half, kept)))


def _missing(place: Place, layer: nn.Module, whole: Pass, half: Pass, kept: Kept) -> Tensor:
    """Return what a layer's output lacks of the unpruned one's, and of what that is added to."""
    dim = output_dim(layer) % half.output.dim()
    indices = kept.get((place.layer, "weight", maker_dim(layer)))

    def left(tensor: Tensor) -> Tensor:
        return tensor if indices is None else tensor.index_select(dim, torch.from_numpy(indices).to(tensor.device))

    missing = left(whole.output) - half.output
    if all(each.skip is not None and each.skip.shape == each.output.shape for each in (whole, half)):
        skipped = left(whole.skip) - half.skip
        gain = place.gain.view([-1 if axis == dim else 1 for axis in range(missing.dim())])
        missing += torch.where(gain.abs() > LEAST_GAIN * gain.abs().max(), skipped / gain, 0)
    return missing


def _change(place: Place, layer: nn.Module, moments: Moments, is_sparse: bool) -> None:
    matrix = as_matrix(layer)
    offset = layer.bias if layer.bias is not None else place.norm and place.norm.running_mean
    change, shift = moments.solved(offset is not None, matrix != 0 if is_sparse else None)
    set_matrix(layer, matrix + change)
    if offset is not None:
        offset.data += (shift if offset is layer.bias else -shift).flatten().to(offset)
