"""From `student: auto` to a student with a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from hf_compress.data import ImageData
from hf_compress.data.images import input_size
from hf_compress.errors import RunError
from hf_compress.hub.load import LoadedModel
from hf_compress.measure.cost import count_parameters
from hf_compress.recipe import Recipe
from hf_compress.sections import StudentSection
from hf_compress.selection.candidates import Blueprint, Candidate, hint
from hf_compress.selection.config import AUTO, BudgetSection, ProbeSection, probed_step
from hf_compress.selection.fitting import LATENCY, Timer, fit, nothing_fits, shown
from hf_compress.selection.halving import entrants, halve
from hf_compress.selection.probe import Probe, few_images
from hf_compress.students import DEFAULT_IMAGE_SIZE


def select_student(
    recipe: Recipe, data: ImageData, teacher: LoadedModel | None, folder: Path, log: Callable[[str], None]
) -> tuple[Recipe, dict[str, Any]]:
    """Find the student that `auto` stands for. What comes after does not depend on random numbers of the search.

    Args:
        folder: for checkpoints of probes.

    Returns:
        The recipe with the student's name, width and input size, and `{"selection": ...}` for the report; where the
        student has a name, the recipe as it is, and nothing.

    Raises:
        RunError: no candidate is within the budget, or none of those that competed when it is measured afresh.
    """
    section = recipe.student
    if section.model != AUTO:
        return recipe, {}
    options = section.probe or ProbeSection()
    blueprint = Blueprint(data.label_names, pixels(section.image_size, teacher))
    timer = Timer(blueprint, recipe.measure.repeats, recipe.measure.threads)
    with torch.random.fork_rng():
        candidates = blueprint.candidates()
        fitting = fit(candidates, section.budget, timer)
        if not fitting:
            raise nothing_fits(candidates, section.budget)
        competing = entrants(fitting, options.candidates)
        log(f"student: {len(fitting)} of {len(candidates)} candidates are within {shown(section.budget)}")
        few = few_images(data, options, recipe.seed)
        probe = Probe(recipe, blueprint, few, teacher, options.epochs, folder / "probe", log)
        ranked = halve(competing, probe)
        if teacher is not None:
            teacher.model.requires_grad_(True)  # distillation froze it, and its memory is yet to be measured
        winner = confirmed(ranked, section.budget, lambda candidate: timer([candidate], beside=teacher)[0], log)
    warning = hint(winner, teacher and count_parameters(teacher.model))
    log(f"student: {winner} with {', '.join(map(winner.shown, winner.costs))}")
    if warning:
        log(f"hint: {warning}")
    student = StudentSection(model=winner.model, width=winner.width, image_size=blueprint.image_size)
    report = {
        "budget": section.budget.limits,
        "image_size": blueprint.image_size,
        "probe": {"step": probed_step(recipe)[0], **options.model_dump()},
        "candidates": [candidate.row() for candidate in candidates],
        "winner": {"model": winner.model, "width": winner.width},
        "hint": warning,
    }
    return recipe.model_copy(update={"student": student}), {"selection": report}


def confirmed(
    ranked: Sequence[Candidate],
    budget: BudgetSection,
    measure: Callable[[Candidate], float],
    log: Callable[[str], None],
) -> Candidate:
    """Return the best candidate whose latency, measured afresh, is within the budget; the best where that has none.

    Raises:
        RunError: there is none.
    """
    if budget.latency_ms is None:
        return ranked[0]
    for candidate in ranked:
        candidate.costs[LATENCY] = measure(candidate)
        if candidate.costs[LATENCY] <= budget.latency_ms:
            return candidate
        candidate.misses = f"{candidate.shown(LATENCY)} when measured afresh"
        log(f"student: {candidate} took {candidate.misses}")
    raise RunError(
        f"every student that competed took more than {budget.latency_ms:g} ms when it was measured afresh: repeat on "
        "a quiet machine, or raise 'student.budget.latency_ms'"
    )


def pixels(image_size: int | None, teacher: LoadedModel | None) -> int:
    """Return the input size of students: what the user asked for, the teacher's, or the usual one."""
    if image_size is not None:
        return image_size
    return DEFAULT_IMAGE_SIZE if teacher is None else input_size(teacher.processor)[0]
