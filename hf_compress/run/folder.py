"""The folder of a run in the making: what is done lies there until the run is finished, for `--resume`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from hf_compress.ground import manifest, processes
from hf_compress.ground.environment import environment
from hf_compress.ground.errors import CompressError, RunError, Settled, UsageError, shown
from hf_compress.ground.files import NEW, user_path, write_problem
from hf_compress.ground.sealed import read_sealed, write_sealed
from hf_compress.ground.units import Units
from hf_compress.report.run import RECIPE, REPORT, Run
from hf_compress.run.inputs import leaves, refuse_overlap, refuse_own_place
from hf_compress.run.recipe import Recipe
from hf_compress.sections.models import AUTO
from hf_compress.training.tracking import Tracking

BEGUN, MOVING, LOCK, FILES = "begun.json", "moving", "lock", "files"
UNITS, DISCARDED, REPLACED = "units", "discarded", "replaced"
BEGUN_KEYS = {"recipe", "overwrite", "environment", "seconds", "since"}
MOST_DIFFERENCES = 3


class RunFolder:
    """Keeps what a run has done in `<destination>.partial`, and moves the result to its destination in the end.

    A context manager: one run at a time may hold the folder, and only the main process of it writes there. When it is
    left by an error, what is done stays, and the error says how to go on.

    Args:
        destination: the run folder to make.
        recipe: what to do.
        overwrite: replace an earlier run folder, and discard what an unfinished one has done.
        resume: go on with what is done, if anything is; beside it `overwrite` discards nothing, as a study wants it.
        unlike: tells of a finished run folder in what it differs from this run, in words; nothing where it does not.

    Attributes:
        finished: the run, when there is nothing left to do.
        resumed: whether there is work to go on from.
        units: where the work is kept.

    Raises:
        UsageError: the destination holds something else, or an earlier run without `overwrite`; or it would harm what
            the recipe reads; or there is unfinished work of another recipe, or of the same without `resume`; or
            another process is at work there.
    """

    def __init__(
        self,
        destination: str | Path,
        recipe: Recipe,
        overwrite: bool = False,
        resume: bool = False,
        unlike: Callable[[Path], str] | None = None,
    ):
        self.destination = _place(destination)
        self.partial = self.destination.with_name(self.destination.name + ".partial")
        self.recipe, self.overwrite, self.resume = recipe, overwrite, resume
        self.unlike = unlike or partial(other_recipe, recipe)
        self.anew = f"remove '{self.partial}'" if overwrite and resume else "--overwrite"
        self.units = Units(self.partial / UNITS, recipe.seed)
        self.finished: Run | None = None
        self.resumed = False
        self._lock = FileLock(self.partial / LOCK)
        self._begun: dict[str, Any] = {}

    def __enter__(self) -> RunFolder:
        try:
            if processes.is_main():
                refuse_own_place(self.destination)
                refuse_overlap(self.destination, self.recipe)
                refuse_other_work(self.partial)
                self.partial.mkdir(parents=True, exist_ok=True)
                self._lock.acquire(timeout=0)
                self._open()
        except Timeout:
            raise UsageError(f"output '{self.destination}' is being made by another process: wait for it") from None
        except (OSError, ValueError) as error:  # the latter for a path that holds a NUL
            self._leave()
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"output {shown(str(self.destination))} cannot be written: {reason}") from None
        except BaseException:
            self._leave()
            raise
        self._share()
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        kept = self._leave()
        problem = error and not isinstance(error, CompressError) and write_problem(error, self.partial)
        if problem:
            error, cause = RunError(f"output '{self.destination}' cannot be written: {problem}"), error
        if error is not None and kept and not isinstance(error, Settled):
            error.add_note(
                f"What is done is kept in '{self.partial}': the same command with --resume goes on from there "
                f"(in Python resume=True); {self.anew} to start anew."
            )
        if problem:
            raise error from cause

    def remember(self, **facts: Any) -> None:
        """Keep facts about the run.

        Raises:
            RunError: the run is resumed, and they were others when it began; or they are others in another process.
        """
        for name, value in facts.items():
            if processes.from_main(value) != value:
                raise RunError(
                    f"the {name} of process {processes.rank()} are not those of the main process: give all machines "
                    "the same"
                )
            if self._begun.setdefault(name, value) != value:
                raise RunError(
                    f"the {name} are not those with which '{self.partial}' was begun: restore them, or {self.anew} "
                    "to start anew"
                )
        self._write_begun()

    def pin(self, recipe: Recipe, **commits: str | None) -> Recipe:
        """Return the recipe with the commits that were loaded, which a resumed run will load, too."""
        self._begun.setdefault("commits", {}).update({k: v for k, v in commits.items() if v is not None})
        self._write_begun()
        return recipe.pinned(**self._begun["commits"])

    def tracking(self) -> Tracking | None:
        """Return where the recipe wants the trainings to be tracked; a resumed run goes on under the same name."""
        if self.recipe.track is None:
            return None
        if "began" not in self._begun:
            self._begun["began"] = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
            self._write_begun()
        return Tracking.of(self.recipe.track, self.destination, self._begun["began"], self.units.folder)

    @property
    def seconds(self) -> float:
        """How long this run has taken, without the time between an interruption and its continuation."""
        return self._begun["seconds"] + time.time() - self._begun["since"]

    @property
    def new_versions(self) -> list[str]:
        """What has changed in the environment since the run began."""
        now = environment()
        return [name for name, value in self._begun["environment"].items() if now.get(name) != value]

    def finish(self, write: Callable[[Path], None]) -> Run:
        """Put the result into its place and remove everything else.

        A process that is killed on the way loses neither the result nor the earlier run that it replaces.

        Args:
            write: called, unless that is done, with the empty folder that becomes the run folder; its manifest comes
                by itself.

        Raises:
            UsageError: something else has come into the destination meanwhile; the result is kept for `resume`.
        """

        def write_all(new: Path, _: Path) -> None:
            write(new)
            manifest.record(new)

        self.units.once(FILES, write_all, alone=True)
        if processes.is_main():
            (self.partial / MOVING).touch()
            self._move(self.overwrite)
        processes.wait()
        return Run.open(self.destination)

    def _open(self) -> None:
        if (self.partial / MOVING).exists():
            self._move(self.overwrite or read_sealed(self.partial / BEGUN)["overwrite"])
        if not self.units.hold_work():
            self._begin()
        elif self.resume:
            self._continue()
        elif self.overwrite:
            self._begin()
        else:
            raise UsageError(
                f"'{self.partial}' holds an unfinished run: go on with it by --resume, or discard it by --overwrite"
            )

    def _begin(self) -> None:
        """Start with an empty folder, unless the run is finished already."""
        self._refuse_other_files()
        if self.finished is not None:
            return
        self._clear()
        self._begun = {
            "recipe": comparable(self.recipe),
            "overwrite": self.overwrite,
            "environment": environment(),
            "seconds": 0.0,
            "since": time.time(),
        }
        self._write_begun()

    def _continue(self) -> None:
        """Go on with what is done, if the recipe is still the same."""
        self._begun = read_sealed(self.partial / BEGUN)
        if different := changed_keys(self._begun["recipe"], comparable(self.recipe)):
            raise UsageError(
                f"'{self.partial}' was begun with another recipe: {different}; take that one to go on, or {self.anew} "
                "to start anew"
            )
        begun_with = self._begun["environment"].get("processes", 1)
        if begun_with != processes.count():
            raise UsageError(
                f"'{self.partial}' was begun with {begun_with} processes, which are {processes.count()} now: start as "
                f"many to go on, or {self.anew} to start anew"
            )
        self.overwrite = self.overwrite or self._begun["overwrite"]
        self._refuse_other_files(resumed=True)
        last = max(place.stat().st_mtime for place in self.partial.rglob("*"))
        self._begun["seconds"] += max(0.0, last - self._begun["since"])
        self._begun["since"] = time.time()
        self.resumed = True
        self._write_begun()

    def _share(self) -> None:
        """Tell the other processes what the main one found, and see that they find the folder that it made."""
        found = self._begun, self.finished, self.resumed, self.overwrite
        self._begun, self.finished, self.resumed, self.overwrite = processes.from_main(found)
        if not self.partial.is_dir():
            raise UsageError(
                f"process {processes.rank()} does not find '{self.partial}', which the main process made: put "
                "--output on a disk that all machines share"
            )
        processes.wait()

    def _write_begun(self) -> None:
        if processes.is_main():
            write_sealed(self.partial / BEGUN, self._begun)

    def _refuse_other_files(self, resumed: bool = False) -> None:
        """Allow an empty destination, an earlier run that is to be replaced, and the same run, finished."""
        destination = self.destination
        if not is_taken(destination):
            return
        finished = self.resume and not resumed and not self.overwrite and (destination / REPORT).is_file()
        if not finished:
            manifest.refuse_to_replace(destination, "run")
        if self.overwrite:
            return
        if not finished:
            raise UsageError(f"output '{destination}' holds an earlier run: pass --overwrite to replace it")
        if different := self.unlike(destination):
            raise UsageError(
                f"output '{destination}' holds a finished run of another recipe: {different}; pass --overwrite to "
                "replace it, or choose another --output"
            )
        self.finished = Run.open(destination)

    def _move(self, overwrite: bool) -> None:
        """Finish what `finish` began, from wherever it was interrupted."""
        files = self.units.folder / FILES
        if files.exists():
            if is_taken(self.destination):
                manifest.refuse_to_replace(self.destination, "run")
                if not overwrite:
                    raise UsageError(
                        f"output '{self.destination}' holds another run since: move it away, then --resume"
                    )
                os.replace(self.destination, self.partial / REPLACED)
            os.replace(files, self.destination)
        self._clear()

    def _clear(self) -> None:
        """Remove everything but the lock: what proves that all is ours goes last; what is not ours stays."""
        units, discarded, replaced = (self.partial / name for name in (UNITS, DISCARDED, REPLACED))
        shutil.rmtree(discarded, ignore_errors=True)
        if units.exists():
            os.replace(units, discarded)  # at once: a unit that is half removed would look finished
            shutil.rmtree(discarded)
        if replaced.exists():
            with suppress(OSError, UsageError):
                manifest.remove_files(replaced)
                replaced.rmdir()
        for name in (MOVING, NEW + BEGUN, BEGUN):
            (self.partial / name).unlink(missing_ok=True)

    def _leave(self) -> bool:
        """Let go of the folder, and remove it unless it holds work; return whether it does."""
        if processes.is_main() and not self._lock.is_locked:
            return False
        kept = self.units.hold_work()
        if not processes.is_main():
            return kept
        if not kept:
            self._remove()
        self._lock.release()
        return kept

    def _remove(self) -> None:
        """Remove the folder, unless something else has come into it."""
        with suppress(OSError):
            self._clear()
            (self.partial / LOCK).unlink(missing_ok=True)
            self.partial.rmdir()


def refuse_other_work(partial: Path) -> None:
    """Allow only a folder that an earlier start has made, as its begun.json proves: what lies there will be removed.

    Raises:
        UsageError: it is something else, or holds something else, which is named; or its begun.json was damaged.
    """
    if not os.path.lexists(partial):
        return
    ours = {BEGUN, NEW + BEGUN, MOVING, LOCK, UNITS, DISCARDED, REPLACED}
    if partial.is_symlink():
        ours = set()
    elif not _is_begun(partial / BEGUN):  # killed at its first moment
        ours = {LOCK, NEW + BEGUN} if not (partial / LOCK).exists() or not (partial / LOCK).stat().st_size else set()
    for name in sorted(os.listdir(partial)):
        if name not in ours and name in (BEGUN, UNITS):
            raise UsageError(
                f"'{partial / BEGUN}' is missing or was damaged, and alone proves that an unfinished run lies there: "
                "restore it, or move the folder away to start anew"
            )
        if name not in ours:
            raise UsageError(
                f"'{partial}' holds '{name}', which is not of an unfinished run: move it away, or choose another "
                "--output"
            )


def _is_begun(file: Path) -> bool:
    """Return whether a file is what `RunFolder` keeps about a run that began."""
    try:
        return not file.is_symlink() and read_sealed(file).keys() >= BEGUN_KEYS
    except (RunError, AttributeError):
        return False


def is_taken(destination: Path) -> bool:
    """Return whether anything but an empty folder is there."""
    return os.path.lexists(destination) and not (destination.is_dir() and not any(destination.iterdir()))


def _place(destination: str | Path) -> Path:
    """Return the path that is to be the run folder: behind a link, what it points to.

    Raises:
        UsageError: it is the root of the file system.
    """
    path = user_path(destination)
    if os.path.islink(path) or path.name in ("", ".."):
        path = Path(os.path.realpath(path))
    if not path.name:
        raise UsageError(f"output '{path}' cannot be a run folder: choose another --output")
    return path


def other_recipe(recipe: Recipe, folder: Path) -> str:
    """Return in which keys the recipe of a finished run differs from another, in words; empty when it does not."""
    earlier = Recipe.load(folder / RECIPE)
    if recipe.student.model == AUTO:  # a finished run names the student that was selected
        earlier.student = recipe.student
    for then, now in zip(earlier.students.values(), recipe.students.values(), strict=False):
        if now.pretrained == AUTO:  # as it names the checkpoint
            then.pretrained = AUTO
    return changed_keys(comparable(earlier), comparable(recipe), revisions=False)


def changed_keys(earlier: dict[str, Any], now: dict[str, Any], revisions: bool = True) -> str:
    """Return the keys in which two recipes differ, in words; empty when they do not.

    Args:
        revisions: False overlooks branches and commits, since a finished run keeps the commits that it found.
    """
    earlier, now = dict(leaves(earlier)), dict(leaves(now))
    keys = [key for key in earlier | now if earlier.get(key) != now.get(key)]
    if not revisions:
        keys = [key for key in keys if not key.endswith(".revision")]
    shown = [f"'{key}' was {earlier.get(key)!r} and is {now.get(key)!r}" for key in keys[:MOST_DIFFERENCES]]
    more = [f"and {len(keys) - MOST_DIFFERENCES} more"] if len(keys) > MOST_DIFFERENCES else []
    return ", ".join(shown + more)


def comparable(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as plain values; where it is published and tracked does not matter."""
    return recipe.model_dump(mode="json", exclude={"publish", "track"})
