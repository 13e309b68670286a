"""Which candidates begin with the weights of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from huggingface_hub import try_to_load_from_cache

from hf_compress.ground import processes
from hf_compress.ground.errors import CompressError, OutOfReach
from hf_compress.ground.files import user_path
from hf_compress.models.students import STUDENTS, Checkpoint
from hf_compress.run.selection.candidates import Blueprint, Candidate
from hf_compress.run.selection.halving import entrants


def begin_with_checkpoints(
    fitting: Sequence[Candidate], number: int, blueprint: Blueprint, log: Callable[[str], None]
) -> list[Candidate]:
    """Note in candidates the checkpoint that they begin with, and return those that have one.

    They are tried in the order in which they compete, until there are `number`.
    """
    ordered = entrants(fitting, len(fitting))
    for index, checkpoint in processes.on_main(lambda: _found(ordered, number, blueprint, log)).items():
        ordered[index].pretrained = checkpoint
    return [candidate for candidate in ordered if candidate.pretrained is not None]


def _found(ordered: list[Candidate], number: int, blueprint: Blueprint, log: Callable[[str], None]) -> dict[int, str]:
    """Return the checkpoints that can be loaded by index; once the Hub is out of reach, of cached ones and folders."""
    found, reasons, reachable = {}, [], True
    known = [
        (index, checkpoint)
        for index, candidate in enumerate(ordered)
        for checkpoint in STUDENTS.get(candidate.model).of_width(candidate.width)
    ]
    for index, checkpoint in known:
        if index in found or len(found) == number or not (reachable or _is_here(checkpoint)):
            continue
        try:
            blueprint.build(replace(ordered[index], pretrained=checkpoint.id))
        except CompressError as error:
            reachable = reachable and not isinstance(error, OutOfReach)
            reasons.append(str(error))
        else:
            log(f"student: {ordered[index]} can begin with the weights of {checkpoint}")
            found[index] = checkpoint.id
    if reasons:
        log(f"student: without a checkpoint candidates start from scratch: {reasons[0]}")
    return found


def has_checkpoint(name: str, width: float, offline: bool) -> bool:
    """Tell whether an architecture has a checkpoint of a width; offline only what is here counts."""
    return any(not offline or _is_here(checkpoint) for checkpoint in STUDENTS.get(name).of_width(width))


def _is_here(checkpoint: Checkpoint) -> bool:
    if os.path.isdir(user_path(checkpoint.id)):
        return True
    return isinstance(try_to_load_from_cache(checkpoint.id, "config.json"), str)
