"""The control of a distillation: the same student after the same steps, which learnt from the labels alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hf_compress.ground.errors import RunError
from hf_compress.ground.units import Units
from hf_compress.models.load import LoadedModel
from hf_compress.report.measures import CONTROL
from hf_compress.run.recipe import Recipe
from hf_compress.run.stages import Stages
from hf_compress.run.step_unit import apply_once
from hf_compress.steps import Step
from hf_compress.training.context import Context


def train_control(recipe: Recipe, student: LoadedModel, context: Context, stages: Stages, units: Units) -> None:
    """Take the student through the steps without a teacher, and compare what comes out with the last stage.

    It makes as many steps: where the student has images without labels, too, those with one are shown more often, and
    where its steps had minutes, the control gets the epochs that fitted into them, rounded up. It sees new views all
    the time: that they repeat spares a teacher. Where a step cannot be done so, as when its loss is
    not finite any more, a remark says why there is no control.

    Args:
        student: as it was before the first step.
        context: that of the first step.
    """
    context, details = replace(context, teacher=None), {}
    made = {row["stage"]: row.get("details", {}) for row in stages.rows}
    data = context.data
    length = None if data.unlabelled is None else len(data.with_unlabelled)
    without_teacher = replace(data, train=data.train.in_new_views(), epoch_length=length)
    for number, (name, step) in enumerate(zip(recipe.step_names, recipe.build_steps(), strict=True), start=1):
        context.log(f"{CONTROL}, step {number} of {len(recipe.steps)}: {name}, from the labels alone")
        try:
            context = replace(context, data=without_teacher if step.distils else data)
            alone = _in_epochs(step.on_labels(), made[f"{number} {name}"])
            applied = apply_once(alone, f"{CONTROL} {number} {name}", student, context, units)
        except RunError as error:
            stages.remarks.append(f"there is no control, whose step {number} failed: {error}")
            context.log(stages.remarks[-1])
            return
        student, context = applied.student, applied.context
        details[f"{number} {name}"] = applied.details
    stages.add_control(student, {"steps": details})


def _in_epochs(step: Step, made: dict[str, Any]) -> Step:
    """Return a step bound by the epochs that its minutes were enough for, as the details of its trainings tell.

    Of pruning, whose rounds train, these are the most of a round.
    """
    budgets = [each["time_budget"] for each in (made, *made.get("rounds", [])) if "time_budget" in each]
    if not budgets:
        return step
    bound = {"minutes": None, "epochs": math.ceil(max(budget["epochs"] for budget in budgets))}
    recovery = getattr(step.config, "recovery", None)
    changed = {"recovery": recovery.model_copy(update=bound)} if recovery else bound
    return type(step)(step.config.model_copy(update=changed))
