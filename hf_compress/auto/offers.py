"""Which choices a model and its runtime offer."""

from __future__ import annotations

from functools import partial
from typing import Any

from hf_compress.auto.space import Choice, Options, Space, blocks_step, channels_step
from hf_compress.data.images import input_size
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.load import LoadedModel
from hf_compress.run.preparing import Prepared
from hf_compress.run.student import foreseen_student
from hf_compress.runtimes import RUNTIMES
from hf_compress.sections.models import TEACHER, StudentSection
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.loop import foresee
from hf_compress.tasks import TASKS

ROUNDED = (8, 1)  # multiples of channels: the first by which enough can go
ENOUGH = 0.8
STEP = 8  # pixels


def offered(space: Space, prepared: Prepared) -> Options:
    """Return the choices of a space that the teacher of a recipe and its runtime offer."""
    teacher, side = prepared.teacher, input_size(prepared.teacher.processor)[0]
    sizes = dict.fromkeys(_multiple(share * side) if share < 1 else side for share in sorted(space.image_size)[::-1])
    at_size = [None if size == side else size for size in sizes if size == side or _has(prepared, image_size=size)]
    scopes = space.scope or list(TASKS.get(prepared.recipe.task).scopes)
    importance = _served(space, prepared)
    macs, round_to = _prunable(space, importance[0], scopes[0], teacher)
    able = RUNTIMES.get(prepared.recipe.deploy[0].to).int8
    return Options(
        macs=macs,
        importance=importance,
        scope=scopes,
        blocks=[share for share in sorted(space.blocks) if not share or _loses(teacher, blocks_step(share))] or [0.0],
        width=[share for share in sorted(space.width)[::-1] if share == 1 or _has(prepared, width=share)] or [1.0],
        image_size=at_size or [None],
        int8=[value for value in space.int8 if able or not value] or [False],
        round_to=round_to,
        side=side,
    )


def _prunable(space: Space, importance: str, scope: str, teacher: LoadedModel) -> tuple[list[float], int]:
    """Return the shares of the MACs that can go, and the multiple of channels at which they can."""
    found, round_to = [0.0], ROUNDED[0]
    for multiple in ROUNDED:
        step = partial(channels_step, importance=importance, scope=scope, round_to=multiple)
        shares = sorted(space.macs)
        while shares and shares[-1] and not _loses(teacher, step(shares[-1])):
            shares.pop()
        if shares and shares[-1] > found[-1]:
            found, round_to = shares, multiple
        if found[-1] >= min(ENOUGH, max(space.macs)):
            break
    return found, round_to


def _loses(teacher: LoadedModel, step: dict[str, Any]) -> bool:
    """Tell whether a step can prune a model as much as it says."""
    try:
        foresee(teacher, PruneSection(**step))
    except RunError:
        return False
    return True


def _served(space: Space, prepared: Prepared) -> list[str]:
    """Return the criteria that the task of a recipe takes.

    Raises:
        UsageError: it takes none of the space.
    """
    found, refused = [], None
    for name in space.importance:
        try:
            Choice(macs=0.5, importance=name).recipe(prepared.recipe, round_to=1)
            found.append(name)
        except UsageError as error:
            refused = error
    if refused and not found:
        raise refused
    return found


def _has(prepared: Prepared, **options: Any) -> bool:
    """Tell whether there is a copy of the teacher with options as `student` has them."""
    recipe = prepared.recipe.model_copy(update={"student": StudentSection(model=TEACHER, **options)})
    try:
        foreseen_student(recipe, prepared.data, prepared.teacher)
    except (RunError, UsageError):
        return False
    return True


def _multiple(pixels: float) -> int:
    return max(STEP, round(pixels / STEP) * STEP)
