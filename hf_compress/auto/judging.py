"""What a candidate is worth: made without training or with it, written for the runtime, and looked at there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from hf_compress.auto.space import Choice
from hf_compress.data.images import evenly_spread, example_input, spread
from hf_compress.device.timing import timed_in_turns
from hf_compress.ground.errors import CompressError, RunError
from hf_compress.ground.files import read_json, write_json
from hf_compress.ground.units import Units
from hf_compress.measure.cost import cost
from hf_compress.measure.latency import COMPARABLE, cpu_threads, time_in_turns
from hf_compress.models.load import LoadedModel
from hf_compress.report.candidates_page import JUDGED
from hf_compress.run.deploy import Target, written
from hf_compress.run.folder import RunFolder
from hf_compress.run.preparing import Prepared
from hf_compress.run.recipe import Recipe
from hf_compress.run.selection.limits import MARGIN
from hf_compress.run.taking import Taken, take_steps
from hf_compress.sections.deploy import DeploySection
from hf_compress.steps.pruning.recovery import IMAGES, bearable_rate
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.tasks import TASKS
from hf_compress.tasks.base import Metric

POINT, SEARCH = "point.json", "search"
REPAIRED, BRIEF, TRAINED = "repaired", "brief", "trained"
SAID = {REPAIRED: "", BRIEF: ", trained briefly", TRAINED: ", trained"}
STUDENT_RATE = 5e-4
SURE = 0.97  # share of a ratio of times, most, that will be there in another process; the 95 % interval may leave less
TURNS = 5  # times as many passes as a report's: one busy moment of the machine decides nothing
SECONDS = 30.0  # that these take at most
INT8_EFFORT = 0.5
"""A MAC in int8 counts as half a MAC: by this the search goes, and by times that are measured the answer is chosen."""


def silent(line: str) -> None:
    """Say nothing: what a candidate's steps have to say would drown what the search says."""


@dataclass
class Point:
    """A candidate that was judged.

    Attributes:
        number: of the candidate, from 0.
        kind: `repaired` without training; `brief`: a student after its short training; `trained`.
        recipe: what makes it.
        quality: on validation images, of the file in its runtime.
        costs: `parameters`, `macs`, `peak_memory_bytes`, `bytes` of the file, and `effort`; once it was timed also
            `latency_ms`.
        teacher_ms: latency of the teacher's file, measured in turn with it.
        sure: share of the measured ratio of both that is certain.
    """

    number: int
    choice: Choice
    kind: str
    recipe: Recipe
    quality: float
    costs: dict[str, float]
    teacher_ms: float | None = None
    sure: float = MARGIN
    remarks: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.choice}{SAID[self.kind]}"

    @property
    def trained(self) -> bool:
        return self.kind == TRAINED


@dataclass(frozen=True)
class Bench:
    """Where candidates are made and measured; all that is done is kept, candidate by candidate.

    Attributes:
        prepared: of the run, with a spread part of its validation images.
        round_to: what widths are multiples of.
    """

    prepared: Prepared
    folder: RunFolder
    round_to: int

    @classmethod
    def of(cls, prepared: Prepared, folder: RunFolder, round_to: int) -> Bench:
        validation = prepared.data.validation
        few = validation.subset(evenly_spread(len(validation), JUDGED))
        return cls(replace(prepared, data=replace(prepared.data, validation=few)), folder, round_to)

    @property
    def metric(self) -> Metric:
        """What decides: the task's metric, or where the teacher gave the targets, how far a model agrees with it."""
        return self.task.judged_by(self.prepared.data.by_teacher)

    @property
    def task(self) -> Any:
        return TASKS.get(self.prepared.recipe.task)

    @property
    def deployed(self) -> DeploySection:
        """How float32 files are written."""
        return self.prepared.recipe.deploy[0]

    def units(self, number: int) -> Units:
        """Return where what is known of a candidate lies."""
        return Units(self.folder.units.folder / SEARCH / f"{number:02}", self.prepared.recipe.seed)

    def made(self, choice: Choice, kind: str) -> Units:
        """Return where the model of a candidate is made, the same one for its file in float32 and in int8."""
        name = sha256(f"{choice.made!r}{BRIEF if kind == BRIEF else ''}".encode()).hexdigest()[:16]
        return Units(self.folder.units.folder / SEARCH / name, self.prepared.recipe.seed)

    def finishing(self, point: Point) -> Units:
        """Return where a winner is measured: a search that goes on after an interruption may find another one."""
        return Units(self.units(point.number).folder / f"finishing-{point.kind}", self.prepared.recipe.seed)

    def judge(
        self,
        number: int,
        choice: Choice,
        kind: str = REPAIRED,
        training: dict[str, Any] | None = None,
        log: Callable[[str], None] = silent,
    ) -> Point:
        """Make a candidate, write its file, and measure that.

        Args:
            training: options of the step `distill` that comes last.
            log: told what the steps say.

        Raises:
            RunError: it cannot be had; the reason is kept, too.
        """
        recipe = choice.recipe(self.prepared.recipe, self.round_to, training)

        def work(new: Path, _: Path) -> None:
            try:
                found = self._measured(self._taken(choice, kind, recipe, log), recipe.deploy[0], new)
            except CompressError as error:
                found = {"failed": str(error)}
            write_json(new / POINT, found)

        found = read_json(self.units(number).once(kind, work) / POINT)
        if "failed" in found:
            raise RunError(found["failed"])
        return Point(number, choice, kind, recipe, found["quality"], found["costs"])

    def taken(self, point: Point) -> Taken:
        """Return what a point is made of."""
        return self._taken(point.choice, point.kind, point.recipe)

    def _taken(self, choice: Choice, kind: str, recipe: Recipe, log: Callable[[str], None] = silent) -> Taken:
        """Take the steps of a candidate's recipe, those that are not done."""
        return take_steps(replace(self.prepared, recipe=recipe), self.folder, self.made(choice, kind), log)

    def _measured(self, taken: Taken, section: DeploySection, folder: Path) -> dict[str, Any]:
        problems: list[str] = []
        student, target = taken.student, Target.of(section)
        files = written(student, self.prepared.data, [target], folder, problems)
        if problems:
            raise RunError(problems[0])
        examine = self.task.examiner(self.prepared.data, "validation", self.prepared.teacher, self.prepared.predict)
        quality = examine(replace(student, model=files[target]))["quality"]
        if self.metric.name not in quality:
            raise RunError(f"its {self.metric.words} on the validation images is not defined")
        costs = cost(student.model, example_input(student.processor))
        costs["bytes"] = sum((folder / place).stat().st_size for place in target.runtime.files(target.place))
        costs["effort"] = costs["macs"] * (INT8_EFFORT if section.int8 else 1)
        return {"quality": quality[self.metric.name], "costs": costs}

    def rate(self, point: Point) -> float:
        """Return a learning rate that the model of a point bears: see `bearable_rate`."""
        if point.choice.student:
            return STUDENT_RATE
        student, teacher = self.taken(point).student, self.prepared.teacher
        images = spread(self.prepared.data.train, IMAGES)
        calibration = Calibration(images, student.processor, teacher.model, self.task)
        return self.units(point.number).value("rate", lambda: bearable_rate(student.model, calibration), alone=True)

    def time(self, point: Point) -> None:
        """Measure the latency of a candidate's file in turn with the teacher's, once.

        Training does not change that, but for int8, where other layers may stay in floats.
        """
        name = f"time {point.kind}" if point.choice.int8 else "time"
        found = self.units(point.number).value(name, partial(self._time, point), alone=True)
        point.costs["latency_ms"], point.teacher_ms = found["latency_ms"], found["teacher_ms"]
        point.sure = found.get("sure", MARGIN)

    def _time(self, point: Point) -> dict[str, float]:
        own = Target.of(point.recipe.deploy[0])
        file = self.units(point.number).folder / point.kind / own.place
        return self._in_turn(own, file, self.taken(point).student, str(point))

    def time_untrained(self, student: LoadedModel, int8: bool) -> float:
        """Return the milliseconds of a student that nobody has trained; endless where its file cannot be written."""
        own = Target.of(self.deployed.model_copy(update={"int8": int8}))
        with TemporaryDirectory() as place:
            if not written(student, self.prepared.data, [own], Path(place), []):
                return inf
            return self._in_turn(own, Path(place) / own.place, student, student.name)["latency_ms"]

    def _in_turn(self, own: Target, file: Path, student: LoadedModel, what: str) -> dict[str, float]:
        whole = Target.of(self.deployed.model_copy(update={"int8": False}))
        measure = self.prepared.recipe.measure
        with cpu_threads(measure.threads):
            threads = torch.get_num_threads()
            calls = [
                partial(target.runtime.load(place, threads), example_input(loaded.processor).contiguous().numpy())
                for target, place, loaded in (
                    (whole, self.units(0).folder / REPAIRED / whole.place, self.prepared.teacher),
                    (own, file, student),
                )
            ]
            first, second = time_in_turns(calls, _turns(calls, TURNS * measure.repeats), what, against="teacher")
        ratio = second.get("speedup")
        sure = {"sure": min(SURE, ratio["low"] / ratio["ratio"])} if ratio else {}
        return {"teacher_ms": first["p50_ms"], "latency_ms": second["p50_ms"]} | sure


def _turns(calls: list[Callable[[], Any]], most: int) -> int:
    """Return how often functions are timed: `most` times, and slow ones as often as half a minute allows."""
    (once,) = timed_in_turns([lambda: [call() for call in calls]], 1)
    return min(most, max(COMPARABLE, round(SECONDS / once[0])))
