"""How many steps of a training fit into the minutes that its recipe gives it: measured in a trial, decided once."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import monotonic as now
from typing import Any

from torch.utils.data import Subset
from transformers import Trainer, TrainerCallback

from hf_compress.data import ImageSplit
from hf_compress.data.images import evenly_spread
from hf_compress.ground import processes
from hf_compress.ground.sealed import read_sealed, write_sealed
from hf_compress.sections.base import TrainingConfig

WARM, TRIED = 3, 20  # steps of a trial: the first are not counted
LONGEST = 0.05  # share of the time after which a trial ends
LEAST = 2  # steps of a trial that are no first of an epoch, however long they take
SPARE = 0.05  # share of the time that is left for what takes longer later
VALIDATED = 1024  # images of a trial's evaluation, most

Ask = Callable[..., ImageSplit]
"""Called with `images` and `epochs`: adds what a teacher says to the views of a training of so many epochs."""


class TimeTrial(TrainerCallback):
    """Ends a training after a few steps, and takes the time of what it consists of.

    An epoch is a first step, for which images begin to be read, other steps, and what comes after: an evaluation and a
    checkpoint.

    Args:
        seconds: that the whole training has.
        folder: for the checkpoint.

    Attributes:
        epoch_steps: steps of a whole epoch.
    """

    def __init__(self, seconds: float, folder: Path):
        self.seconds = seconds
        self.folder = folder

    def watch(self, trainer: Trainer) -> None:
        """Try a trainer that was not used yet, which evaluates fewer images then."""
        whole, few = len(trainer.eval_dataset), evenly_spread(len(trainer.eval_dataset), VALIDATED)
        self.scale = whole / len(few)
        trainer.eval_dataset = Subset(trainer.eval_dataset, few)
        trainer.add_callback(self)

    def on_train_begin(self, args, state, control, **kwargs):
        self.firsts: list[float] = []
        self.others: list[float] = []
        self.epoch_steps = state.max_steps // round(args.num_train_epochs)
        self.began = now()

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.last, self.next = now(), self.firsts

    def on_step_end(self, args, state, control, **kwargs):
        ended = now()
        self.next.append(ended - self.last)
        self.last, self.next = ended, self.others
        known = len(self.others) >= LEAST or self.epoch_steps == 1
        enough = state.global_step >= WARM + TRIED or (known and ended - self.began > LONGEST * self.seconds)
        if processes.from_main(enough):
            control.should_epoch_stop = True
            control.should_training_stop |= len(self.firsts) > 1

    def on_epoch_end(self, args, state, control, **kwargs):
        last = control.should_training_stop or round(args.num_train_epochs) == len(self.firsts)
        control.should_evaluate = control.should_save = last
        self.last = now()

    def on_evaluate(self, args, state, control, **kwargs):
        evaluated = now()
        self.after, self.last = self.scale * (evaluated - self.last), evaluated

    def on_save(self, args, state, control, **kwargs):
        self.after += now() - self.last

    def steps_within(self, seconds: float, epochs: int, views: int = 1, asking: float = 0.0) -> int:
        """Return how many steps fit into `seconds`, in at most so many epochs; one at least.

        Args:
            views: for each but the first of them, a teacher is asked before the training.
            asking: seconds that a view takes.
        """
        first, other = self.firsts[-1], median(self.others[WARM:] or self.others[-1:] or self.firsts[-1:])
        left = seconds - max(0.0, self.firsts[0] - first)  # the training starts as the trial did
        for whole in range(epochs):
            left -= first + self.after + (asking if 0 < whole < views else 0.0)
            if left < (self.epoch_steps - 1) * other:
                part = 1 + int(left / other) if left >= 0 else 0
                return max(1, whole * self.epoch_steps + part)
            left -= (self.epoch_steps - 1) * other
        return epochs * self.epoch_steps


class Budget:
    """What a training may spend, epochs or minutes; these count from now.

    Attributes:
        steps: of the whole training; -1 makes `config.epochs`.
    """

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.began = now()
        self.steps = -1
        self.epochs: float = config.epochs

    @property
    def details(self) -> dict[str, Any]:
        """What belongs into the report; empty where there is no bound by time."""
        if self.config.minutes is None:
            return {}
        return {"time_budget": {"minutes": self.config.minutes, "steps": self.steps, "epochs": self.epochs}}

    def plan(
        self, images: ImageSplit, ask: Ask, run: Callable[[ImageSplit, TimeTrial], Any], folder: Path, log
    ) -> ImageSplit:
        """Return images that say what a teacher answers, after it is decided how many steps learn from them.

        The main process decides, and keeps it in `folder`: a training that was interrupted goes on with it.

        Args:
            run: begins the training on given images, watched by a `TimeTrial`; the weights are not needed any more.
        """
        file = folder / "budget.json"
        if self.config.minutes is None:
            return ask(images, epochs=self.config.epochs)
        stored = processes.on_main(lambda: read_sealed(file) if file.is_file() else None)
        if stored is not None:
            self.steps, self.epochs = stored
            return ask(images, epochs=math.ceil(self.epochs))
        asked = now()
        one = ask(images, epochs=1)
        asking, views, most = now() - asked, images.repeats_after or 1, self.config.epochs
        trial = TimeTrial(60 * self.config.minutes, folder / "trial")
        _remove(trial.folder)
        run(one, trial)
        _remove(trial.folder)

        def fitting(epochs: int, *teacher: float) -> int:  # what the training begins with is evaluated, too
            return processes.from_main(trial.steps_within(self._left() - trial.after, epochs, *teacher))

        epochs = math.ceil(fitting(most, views, asking) / trial.epoch_steps)
        shown = ask(images, epochs=epochs)
        self.steps = fitting(epochs if epochs < views else most)
        self.epochs = self.steps / trial.epoch_steps
        if processes.is_main():
            folder.mkdir(parents=True, exist_ok=True)
            write_sealed(file, [self.steps, self.epochs])
        bound = " (the most, by 'epochs')" if self.epochs == most else ""
        log(f"  {self.config.minutes:g} minutes: {self.steps:,} steps, {self.epochs:.4g} epochs{bound}")
        return shown

    def _left(self) -> float:
        return 60 * self.config.minutes * (1 - SPARE) - (now() - self.began)


def _remove(folder: Path) -> None:
    if processes.is_main():
        shutil.rmtree(folder, ignore_errors=True)
    processes.wait()
