"""What is asked for: a model and images, as the recipe of a run without steps, and what is wished of the result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hf_compress.auto.space import Space
from hf_compress.auto.wish import Wish
from hf_compress.ground.errors import UsageError
from hf_compress.run.recipe import Recipe, model_overrides, with_declared_task
from hf_compress.runtimes import RUNTIMES
from hf_compress.sections.base import MOST, validate
from hf_compress.sections.deploy import DeploySection
from hf_compress.tasks import TASKS

ALIASES = {"onnxruntime": "onnx"}
OWN = {"steps", "student", "assistants", "control", "deploy", "publish"}


@dataclass(frozen=True)
class Request:
    """A search.

    Attributes:
        recipe: teacher, data, measuring and seed of all candidates, no steps, and in `deploy` the runtime.
        minutes: for search and trainings; what follows, the measuring on test images, comes on top.
        candidates: how many are judged, most.
    """

    recipe: Recipe
    wish: Wish
    space: Space
    minutes: float = 60.0
    candidates: int = 24

    @classmethod
    def of(
        cls,
        model: str,
        data: str,
        wish: dict[str, Any],
        runtime: str = "onnx",
        minutes: float = 60.0,
        candidates: int = 24,
        space: dict[str, Any] | None = None,
        seed: int = 0,
        overrides: dict[str, Any] | None = None,
    ) -> Request:
        """Build a request from plain values.

        Args:
            model: Hub id (ID@REVISION), folder, or a registered architecture that is trained first.
            wish: see `Wish`.
            space: see `Space`.
            overrides: values of the recipe by key path: `{"teacher.finetune.epochs": 5}`.

        Raises:
            UsageError: a value is wrong.
        """
        for key in overrides or {}:
            if key.partition(".")[0] in OWN:
                raise UsageError(f"cannot set '{key}': the search decides that; see --space")
        if not 0 < minutes <= MOST:
            raise UsageError(f"'minutes' cannot be {minutes:g}: give more than 0")
        if not 2 <= candidates <= 1000:
            raise UsageError(f"'candidates' cannot be {candidates}: from 2 to 1000 can be judged")
        asked = model_overrides("teacher", model) | (overrides or {})
        task = str(asked.get("task"))
        if task in TASKS and not TASKS.get(task).general_steps:
            raise UsageError(f"'task: {task}' has no pruning, by which candidates are made: name another task")
        deployed = validate(DeploySection, {"to": ALIASES.get(runtime, runtime)}, "runtime")
        if only_on := RUNTIMES.get(deployed.to).only_on:
            raise UsageError(
                f"'runtime' cannot be {deployed.to}: candidates are timed in it, and it runs on {only_on} only; "
                f"export the result: hf-compress export FOLDER --to {deployed.to}"
            )
        sections = {"data": data, "steps": [], "deploy": [deployed.model_dump()], "seed": seed}
        wishes, choices = validate(Wish, wish, "wish"), validate(Space, space or {}, "space")
        return cls(Recipe.from_dict(sections, with_declared_task(asked)), wishes, choices, minutes, candidates)

    @property
    def runtime(self) -> str:
        return self.recipe.deploy[0].to

    @property
    def facts(self) -> dict[str, Any]:
        """What the report says of it, and what a resumed search must ask for again."""
        return {
            "wish": self.wish.model_dump(exclude_none=True),
            "runtime": self.runtime,
            "minutes": self.minutes,
            "candidates": self.candidates,
            "space": self.space.model_dump(),
            "recipe": self.recipe.model_dump(mode="json", exclude_none=True),
        }
