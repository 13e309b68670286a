"""From `student: auto` to a student with a name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_compress.data import ImageData
from hf_compress.data.images import input_size
from hf_compress.ground.errors import RunError
from hf_compress.ground.files import read_json, write_json
from hf_compress.ground.units import Units
from hf_compress.measure.cost import count_parameters
from hf_compress.models.load import LoadedModel
from hf_compress.models.students import DEFAULT_IMAGE_SIZE
from hf_compress.run.recipe import Recipe
from hf_compress.run.selection.candidates import Blueprint, Candidate, hint
from hf_compress.run.selection.checkpoints import begin_with_checkpoints
from hf_compress.run.selection.fitting import Timer, budget_in_words, fit_to_budget, nothing_fits
from hf_compress.run.selection.halving import entrants, halve
from hf_compress.run.selection.limits import LATENCY
from hf_compress.run.selection.probe import Probe, few_images
from hf_compress.sections.models import AUTO, BudgetSection, ProbeSection, StudentSection

SELECTION = "selection.json"


def select_student(
    recipe: Recipe, data: ImageData, teacher: LoadedModel | None, units: Units, log: Callable[[str], None]
) -> tuple[Recipe, dict[str, Any]]:
    """Find the student that `auto` stands for, once.

    Returns:
        The recipe with the student's name, width, checkpoint and input size, and `{"selection": ...}` for the report;
        where the student has a name, the recipe as it is, and nothing.

    Raises:
        RunError: no candidate is within the budget, or none of those that competed when it is measured afresh.
    """
    if recipe.student.model != AUTO:
        return recipe, {}

    def work(new: Path, in_progress: Path) -> None:
        write_json(new / SELECTION, _search(recipe, data, teacher, in_progress, log))

    selection = read_json(units.once("selection", work) / SELECTION)
    pinned = recipe.student.revision  # by a run that goes on; a user's recipe cannot name one beside `auto`
    student = StudentSection(**selection["winner"], image_size=selection["image_size"], revision=pinned)
    return recipe.model_copy(update={"student": student}), {"selection": selection}


def _search(
    recipe: Recipe, data: ImageData, teacher: LoadedModel | None, folder: Path, log: Callable[[str], None]
) -> dict[str, Any]:
    """Return what the report tells about the selection; `folder` is for checkpoints of probes."""
    budget, options = recipe.student.budget, recipe.student.probe or ProbeSection()
    blueprint = Blueprint(data.label_names, pixels(recipe.student.image_size, teacher))
    timer = Timer(blueprint, recipe.measure.repeats, recipe.measure.threads)
    candidates = blueprint.candidates()
    fitting = fit_to_budget(candidates, budget.limits, timer)
    if not fitting:
        raise nothing_fits(candidates, budget.limits)
    log(f"student: {len(fitting)} of {len(candidates)} candidates are within {budget_in_words(budget.limits)}")
    competing = _competing(recipe, fitting, options.candidates, blueprint, log)
    few = few_images(data, options, recipe.seed)
    ranked = halve(competing, Probe(recipe, blueprint, few, teacher, options.epochs, folder, log))
    winner = confirmed(ranked, budget, lambda candidate: timer([candidate], beside=teacher)[0], log)
    warning = hint(winner, teacher and count_parameters(teacher.model))
    weights = "" if winner.pretrained is None else f", begun with {winner.pretrained},"
    log(f"student: {winner}{weights} with {', '.join(map(winner.shown, winner.costs))}")
    if warning:
        log(f"hint: {warning}")
    return {
        "budget": budget.limits,
        "image_size": blueprint.image_size,
        "probe": {"step": recipe.probed_step()[0], **options.model_dump()},
        "candidates": [candidate.row() for candidate in candidates],
        "winner": winner.name,
        "hint": warning,
    }


def _competing(
    recipe: Recipe, fitting: Sequence[Candidate], number: int, blueprint: Blueprint, log: Callable[[str], None]
) -> list[Candidate]:
    """Return the candidates that compete: those that begin with a checkpoint, then those with random weights."""
    if not recipe.student.pretrained:
        return entrants(fitting, number)
    if recipe.publish is not None and recipe.publish.license is None:
        log("student: all start from scratch, since a checkpoint may forbid to publish; name 'publish.license'")
        return entrants(fitting, number)
    pretrained = begin_with_checkpoints(fitting, number, blueprint, log)
    others = [candidate for candidate in fitting if candidate.pretrained is None]
    return [*entrants(pretrained, number), *entrants(others, number)][:number]


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
