"""What trainings log goes to a tracker, too, by the Trainer's own integrations: each training is a run of its own."""

from __future__ import annotations

import importlib
import importlib.util
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from hf_compress.ground.errors import UsageError
from hf_compress.ground.manifest import Manifest
from hf_compress.ground.units import WORK

if TYPE_CHECKING:
    from transformers import Trainer

Tracker = Literal["trackio", "tensorboard", "wandb"]
PROJECT = "hf-compress"
PART = "part-"  # of the work of a step


def require_tracker(tracker: Tracker | None) -> None:
    """Raise UsageError where the package of a tracker, which has its name, is not installed."""
    if tracker is None:
        return
    found = importlib.util.find_spec(tracker)
    if found is None or found.origin is None:  # the latter for a mere folder of that name, as wandb makes it
        raise UsageError(f"'track: {tracker}' needs {tracker}, which is not installed: pip install {tracker}")


@dataclass(frozen=True)
class Tracking:
    """Where the trainings of a run are tracked.

    A training is named by where its work lies: `small/2-prune/round-1/2026-11-28_09-30-00` is that of the first round
    of the second step of the run in the folder `small` which began then.

    Attributes:
        name: of the run: its folder, behind that of its study where it has one.
        began: when the run did.
        units: where the work of the run lies.
        files: for what a tracker writes beside the run.
    """

    tracker: Tracker
    name: str
    began: str
    units: Path
    files: Path

    @classmethod
    def of(cls, tracker: Tracker, destination: Path, began: str, units: Path) -> Tracking:
        """Return the tracking of the run that goes to `destination`.

        Files lie beside the run folder, or beside the folder of its study: within, they would be foreign.
        """
        whole = destination.parent if Manifest.of(destination.parent).kind == "study" else destination
        inside = destination.relative_to(whole)
        files = whole.with_name(f"{whole.name}.{tracker}") / inside
        return cls(tracker, (whole.name / inside).as_posix(), began, units, files)

    def arguments(self, folder: Path) -> dict[str, Any]:
        """Return the arguments of the Trainer whose work lies in `folder`."""
        name = f"{self.name}/{self._training(folder)}"
        return {"report_to": self.tracker, "run_name": name, "project": PROJECT}

    @contextmanager
    def following(self, trainer: Trainer, folder: Path, log: Callable[[str], None]) -> Iterator[None]:
        """Let the tracker that `arguments` named follow a training, whose work lies in `folder`.

        What it would print goes to `log`: stdout is for results.
        """
        from transformers.integrations import TensorBoardCallback

        for callback in trainer.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback):
                callback.logging_dir = str(self.files / self._training(folder))
                log(f"  tensorboard --logdir {self.files}")
            if type(callback).__module__.startswith("transformers.integrations"):
                callback.on_train_begin = _told(callback.on_train_begin, log)
                callback.on_train_end = _told(callback.on_train_end, log)
        try:
            yield
        finally:
            if self.tracker == "wandb":  # whose integration goes on with the run that there is
                importlib.import_module("wandb").finish()

    def _training(self, folder: Path) -> str:
        places = folder.relative_to(self.units).parts
        return "/".join([*(place.removeprefix(WORK) for place in places if not place.startswith(PART)), self.began])


def _told(event: Callable[..., None], log: Callable[[str], None]) -> Callable[..., None]:
    @wraps(event)
    def call(*args: Any, **kwargs: Any) -> None:
        printed = io.StringIO()
        try:
            with redirect_stdout(printed):
                event(*args, **kwargs)
        finally:
            for line in Text.from_ansi(printed.getvalue()).plain.splitlines():
                log(f"  {line}")

    return call
