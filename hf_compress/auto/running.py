"""The search from beginning to end: judge, time, train, decide on validation images, and finish as a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from hf_compress.auto.deciding import Decision
from hf_compress.auto.judging import BRIEF, REPAIRED, TRAINED, Bench, Point, silent
from hf_compress.auto.offers import offered
from hf_compress.auto.prediction import Prediction
from hf_compress.auto.proposals import explore
from hf_compress.auto.request import Request
from hf_compress.auto.results import facts, recipes
from hf_compress.auto.space import Choice, Options
from hf_compress.auto.students import SHARE, competing, short_training
from hf_compress.ground import processes
from hf_compress.ground.errors import RunError, Settled
from hf_compress.ground.machine import in_one_sentence
from hf_compress.report.run import Run
from hf_compress.report.scatter import pareto
from hf_compress.run.finishing import finish
from hf_compress.run.folder import RunFolder
from hf_compress.run.permissions import permitted
from hf_compress.run.preparing import Prepared, prepare_run
from hf_compress.runtimes import runtime
from hf_compress.training.tracking import require_tracker

EXPLORED, SEARCHED = 0.3, 0.4  # shares of the minutes after which no candidates are proposed, and none judged
SPOILT = 0.5  # share of the quality; of an error, how much larger
FINALISTS = 3
KEPT_BACK = 0.25  # share of the candidates, for steps from the best one
WASTED = 0.15  # minutes for which no training is begun
EPOCHS = 60  # of a training, at most
TRAINING = {"loss": "kl_ce", "temperature": 2.0, "average": 0.999}  # as recovery after pruning


def find_best(
    request: Request,
    output: str | Path = "runs/auto",
    overwrite: bool = False,
    resume: bool = False,
    log: Callable[[str], None] = print,
    *,
    trust_remote_code: bool = False,
) -> Run:
    """Search for the best model within a wish; see `docs/auto.md`, and `compress` for the other arguments.

    Ctrl-C ends the search, and the best model so far is finished; a second one stops.

    Returns:
        The run of the winner; its report has the key `search`, its folder the recipes of the front in `front/`.

    Raises:
        UsageError: the request or the folder is wrong.
        RunError: nothing that was found in the minutes keeps the limits; the sentence names what is nearest.
    """
    recipe = permitted(request.recipe, trust_remote_code, publish=False)
    log = processes.begin(log)
    runtime(recipe.deploy[0].to)
    require_tracker(recipe.track)
    with in_one_sentence(), RunFolder(output, recipe, overwrite, resume, partial(_unlike, request)) as folder:
        if folder.finished is not None:
            log(f"'{output}' is finished: nothing is left to do")
            return folder.finished
        folder.remember(wishes=request.facts)
        prepared = prepare_run(recipe, folder, log)
        options = offered(request.space, prepared)
        search = Search(request, Bench.of(prepared, folder, options.round_to), options, log)
        winner = search.run()
        return _finish(search, winner, prepared, folder, log)


@dataclass
class Search:
    """A search under way.

    Attributes:
        points: what was judged, by candidate, and then trained.
        failed: the reason of each candidate that cannot be had, by number and name.
        refused: these candidates.
        interrupted: whether the user pressed Ctrl-C.
        ran_out: whether the minutes ended before a candidate kept the limits.
    """

    request: Request
    bench: Bench
    options: Options
    log: Callable[[str], None]
    points: list[Point] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    refused: set[Choice] = field(default_factory=set)
    prediction: Prediction = field(default_factory=Prediction)
    interrupted: bool = False
    ran_out: bool = False

    def run(self) -> Point:
        """Return the winner."""
        folder = self.bench.folder
        self.began = folder.units.value("search begun", lambda: folder.seconds)
        self.teacher = self.bench.judge(0, self.options.whole)
        self.points.append(self.teacher)
        self.bench.time(self.teacher)
        words = self.bench.metric.words
        self.log(
            f"the model as it is: validation {words} {self.teacher.quality:.4f}, {self._in_runtime(self.teacher)}"
        )
        self.decision = Decision(self.request.wish, self.bench.metric, self.teacher, self.prediction)
        self.students = competing(self.request, self.bench, self.options, self.teacher, self.log)
        self._until_interrupted(self._explore)
        self._until_interrupted(self._come_within)
        self._until_interrupted(self._use_what_is_left)
        self._until_interrupted(self._train_students_briefly)
        self._until_interrupted(self._train)
        winner = self._decided()
        self._until_interrupted(self._time_front)
        return winner

    def _until_interrupted(self, work: Callable[[], None]) -> None:
        """Do a part of the search, unless the user has ended it."""
        if self.interrupted:
            return
        try:
            work()
        except KeyboardInterrupt:
            self.interrupted = True
            self.log("interrupted: the best model so far is finished now; another Ctrl-C stops")

    def _explore(self) -> None:
        request = self.request
        self.log(f"search: {request.wish}, in {request.runtime}")
        first = self.options.first(self.decision.share_left, request.wish.falls_with_pixels)
        most = request.candidates - int(KEPT_BACK * request.candidates)
        explore(self.options, first, self._judged, most, request.recipe.seed, partial(self._has_passed, EXPLORED))

    def _come_within(self) -> None:
        """Judge what is farther from the whole model than what is nearest to the limits, until something keeps them.

        What is spoilt is no way: what lies behind it is spoilt, too.
        """
        while not self._is_late() and self._next < self.request.candidates and not self._has_answer():
            sound = [point for point in self.points if not self._is_spoilt(point)]
            steps = (
                choice
                for point in sorted(sound, key=self.decision.excess)
                for choice in self.options.farther(point.choice, self.decision.excess(point))
                if self._is_new(choice)
            )
            choice = next(steps, None)
            if choice is None:
                break
            self._judged(choice)

    def _use_what_is_left(self) -> None:
        """Judge what is a step nearer to the whole model than the best within limits, as long as that is better."""
        if not self.request.wish.has_limits:
            return
        best = None
        while (found := self._most_promising(self.points)) and found is not best:
            best = found
            for choice in self.options.nearer(best.choice):
                if self._next >= self.request.candidates or self._is_late():
                    return
                if self._is_new(choice):
                    self._judged(choice)

    def _most_promising(self, points: list[Point]) -> Point | None:
        """Return what is expected to be the best of points within the limits; as many are timed as that takes."""
        return next((point for point in self.decision.in_order(points) if self._fits(point)), None)

    def _is_late(self) -> bool:
        """Tell whether the time for candidates is over: a share of the minutes, or all while there is no answer."""
        if not self._has_passed(SEARCHED):
            return False
        self.ran_out = self._clock <= (SHARE * self.request.minutes if self.students else 0.0)
        return self.ran_out or self._has_answer()

    def _has_passed(self, share: float) -> bool:
        return self._clock <= (1 - share) * self.request.minutes

    @property
    def _clock(self) -> float:
        """The minutes left before the next candidate; kept, so that a search that goes on takes the same way."""
        return self.bench.units(self._next).value("minutes left", lambda: self._minutes_left, alone=True)

    def _is_new(self, choice: Choice) -> bool:
        return choice not in self.refused and all(point.choice != choice for point in self.points)

    def _has_answer(self) -> bool:
        """Tell whether something keeps the limits that is worth a training."""
        return any(self._fits(point) and not self._is_spoilt(point) for point in self.points)

    def _left(self) -> str:
        return f"{self._minutes_left:.0f} min left" if self._minutes_left >= 0 else "time is over"

    @property
    def _next(self) -> int:
        return len(self.points) + len(self.refused)

    def _train_students_briefly(self) -> None:
        """Let the students compete: what is known of them without training is their costs alone."""
        if not self.students:
            return
        different = len({choice.made for choice in self.students})
        training = TRAINING | short_training(self.request, self.bench, different)
        self.log(f"students: {different} are trained for at most {training['minutes']:g} minutes each")
        for choice in self.students:
            self._judged(choice, BRIEF, training)

    def _judged(
        self, choice: Choice, kind: str = REPAIRED, training: dict[str, Any] | None = None
    ) -> tuple[float, float] | None:
        """Judge a candidate for the search; the model as it is was judged before."""
        if choice == self.teacher.choice:
            return self._values(self.teacher)
        number = self._next
        try:
            point = self.bench.judge(number, choice, kind, training)
        except RunError as error:
            self.failed[f"{number}: {choice}"] = str(error)
            self.refused.add(choice)
            self.log(f"candidate {number}: {choice}: cannot be had: {error}")
            return None
        self.points.append(point)
        macs = self.teacher.costs["macs"] / point.costs["macs"]
        self.log(
            f"candidate {number} of at most {self.request.candidates - 1 + len(self.students)}: {point}: validation "
            f"{self.bench.metric.words} {point.quality:.4f}, {macs:.2f}x fewer MACs, "
            f"{self.teacher.costs['bytes'] / point.costs['bytes']:.2f}x smaller; the front so far: "
            f"{', '.join(f'{each.number}' for each in self.front())} ({self._left()})"
        )
        return self._values(point)

    def _values(self, point: Point) -> tuple[float, float]:
        """Return what the search is told; the costs of what is spoilt count as whole, so that it does not go there."""
        steered = self.request.wish.steered_by
        share = point.costs[steered] / self.teacher.costs[steered]
        return -self.decision.lost(point), 1.0 if self._is_spoilt(point) else share

    def _is_spoilt(self, point: Point) -> bool:
        """Tell whether a point has lost so much that a short training will not bring it back."""
        whole = abs(self.teacher.quality) if self.bench.metric.higher_is_better else 1.0
        return self.decision.lost(point) > SPOILT * whole

    def _train(self) -> None:
        """Train the most promising candidates, one after the other, in the time that is left."""
        tried: set[Choice] = set()
        for place in range(FINALISTS):
            chosen = self._most_promising(self._finalists(tried))
            if chosen is None:
                break
            tried.add(chosen.choice.made)
            is_last = place == FINALISTS - 1 or self._most_promising(self._finalists(tried)) is None
            minutes = self.bench.units(chosen.number).value("minutes", partial(self._minutes, is_last))
            if minutes < WASTED:
                break
            self._train_one(chosen, minutes)

    def _finalists(self, tried: set[Choice]) -> list[Point]:
        """Return what a training may make better; once something was tried, nothing that is spoilt."""
        changed = [point for point in self.points if point.choice.is_changed and point.choice.made not in tried]
        return [point for point in changed if not (tried and self._is_spoilt(point))]

    def _minutes(self, is_last: bool) -> float:
        """Return how long a finalist is trained: half of what is left, the last one all of it."""
        return round(max(0.0, self._minutes_left) / (1 if is_last else 2), 2)

    @property
    def _minutes_left(self) -> float:
        """The minutes of the request less those since the model as it is was ready."""
        return self.request.minutes - (self.bench.folder.seconds - self.began) / 60

    def _train_one(self, chosen: Point, minutes: float) -> None:
        expected, lost = self.decision.expected(chosen), self.decision.lost(chosen)
        self.log(
            f"training candidate {chosen.number} for {minutes:g} minutes: {chosen}, expected to lose {expected:.4f}"
        )
        training = TRAINING | {"learning_rate": self.bench.rate(chosen), "epochs": EPOCHS, "minutes": minutes}
        files = [point for point in self.points if point.choice.made == chosen.choice.made]
        for file in sorted(files, key=lambda point: point is not chosen):
            try:
                log = self.log if file is chosen else silent
                point = self.bench.judge(file.number, file.choice, TRAINED, training, log)
            except RunError as error:
                self.failed[f"{file.choice}, trained"] = str(error)
                self.log(f"the training failed: {error}")
                continue
            self.points.append(point)
            self.log(
                f"{point}: validation {self.bench.metric.words} {point.quality:.4f}, {self.decision.lost(point):.4f} "
                "lost"
            )
            if file is chosen:
                self.decision.foretold_by(file).learn(lost, self.decision.lost(point))
            self._fits(point)

    def _fits(self, point: Point) -> bool:
        """Tell whether a point keeps the limits; it is timed for that where they are of time."""
        if self.request.wish.is_of_time:
            self.bench.time(point)
        return self.decision.fits(point)

    def _decided(self) -> Point:
        left = self.points
        while left and not self._fits(winner := self.decision.best(left)):
            left = [point for point in left if point is not winner]
        if not left:
            kind = RunError if self.interrupted else Settled
            raise kind(self.decision.impossible(self.points, self.request.minutes if self.ran_out else None))
        self.bench.time(winner)
        self.log(f"chosen: {self.decision.shown(winner)}")
        return winner

    def _time_front(self) -> None:
        for point in self.front():
            self.bench.time(point)

    def front(self) -> list[Point]:
        """Return the points that no other beats in quality, and in work or in bytes."""
        found: set[int] = set()
        for key in ("effort", "bytes"):
            found |= pareto([(point.costs[key], -self.decision.lost(point)) for point in self.points])
        return [self.points[index] for index in sorted(found)]

    def _in_runtime(self, point: Point) -> str:
        return f"{point.costs['latency_ms']:.2f} ms in {self.request.runtime}"


def _unlike(request: Request, folder: Path) -> str:
    """Return in what a finished run differs from the result of a search, in words; empty where it does not."""
    found = Run.open(folder).report.get("search", {}).get("request")
    return "" if found == request.facts else "it comes from another search" if found else "it comes from no search"


def _finish(search: Search, winner: Point, prepared: Prepared, folder: RunFolder, log: Callable[[str], None]) -> Run:
    """Look at the test images, once, and write the run folder of the winner."""
    taken = search.bench.taken(winner)
    taken.stages.units = search.bench.finishing(winner)
    missed = search.decision.missed(winner, search.points)
    if missed is not None:
        log(missed)
    said = [*taken.remarks, *([missed] if missed else [])]
    front = search.front()
    more = {
        "search": facts(search.request, search.options, search.decision, search.points, front, winner, search.failed)
    }
    return finish(prepared, replace(taken, remarks=said), folder, log, more, recipes(search.points, front))
