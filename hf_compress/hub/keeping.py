"""Unfinished work on a disk that goes away: a command runs, and what it has done is copied to where it outlives that.

`python -m hf_compress.hub.keeping FOLDER PLACE COMMAND...` is what a rented machine runs. Copies are archives, each
written once and from its beginning to its end, since that is what mounted object storage can do; beside each lies its
checksum, written last.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

from hf_compress.ground.files import NEW
from hf_compress.ground.manifest import digest

ARCHIVE, SUM = ".tar", ".sha256"
EVERY = float(os.environ.get("HF_COMPRESS_KEEP_EVERY", 60))  # seconds


class Copies:
    """Those of a folder, one at a time.

    Args:
        folder: in which something works.
        place: where copies of it lie.
    """

    def __init__(self, folder: Path, place: Path):
        self.folder, self.place = folder, place
        self._copied: dict[str, tuple[int, int]] = {}

    def restore(self) -> bool:
        """Fill the folder from the last copy that is whole, and return whether there was one."""
        for archive in self._archives():
            if _is_whole(archive):
                shutil.rmtree(self.folder, ignore_errors=True)
                with tarfile.open(archive) as content:
                    content.extractall(self.folder, filter="data")
                self._copied = self._state()
                return True
        return False

    def copy(self) -> bool:
        """Copy the folder as it is at one moment, and return whether that is done.

        Nothing is copied where nothing has changed, and a copy during which something has is thrown away.
        """
        before, earlier = self._state(), self._archives()
        if before == self._copied:
            return True
        number = int(earlier[0].stem) + 1 if earlier else 1
        archive = self.place / f"{number:06}{ARCHIVE}"
        with tarfile.open(archive, "w") as content, suppress(FileNotFoundError):  # what is gone since has changed
            for name in before:
                content.add(self.folder / name, name, recursive=False)
        if before != self._state():
            archive.unlink()
            return False
        _sum_of(archive).write_text(digest(archive))
        self._remove(earlier)
        self._copied = before
        return True

    def remove(self) -> None:
        """Remove all copies."""
        self._remove(self._archives())

    def _archives(self) -> list[Path]:
        return sorted(self.place.glob(f"*{ARCHIVE}"), reverse=True)

    def _remove(self, archives: list[Path]) -> None:
        for archive in archives:
            _sum_of(archive).unlink(missing_ok=True)
            archive.unlink()

    def _state(self) -> dict[str, tuple[int, int]]:
        """Return what lies in the folder, but for what is being written: size and time of each file and folder."""
        found = {}
        for place, folders, files in os.walk(self.folder):
            folders[:] = [name for name in folders if not name.startswith(NEW)]
            for name in (*folders, *files):
                path = os.path.join(place, name)
                if not name.startswith(NEW) and (facts := _facts(path)):
                    found[os.path.relpath(path, self.folder)] = facts
        return found


def keep(folder: Path, place: Path, command: list[str]) -> int:
    """Run a command on what was kept, keep what it does, and return its exit status; after success nothing is kept."""
    kept = Copies(folder, place)
    folder.mkdir(exist_ok=True)
    if kept.restore():
        print(f"goes on with what an earlier machine has kept in {place}", file=sys.stderr, flush=True)
    with subprocess.Popen(command) as process:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: process.send_signal(number))
        while (status := _waited(process)) is None:
            _copy(kept)
    if status:
        _copy(kept)
    else:
        kept.remove()
    return status


def _copy(kept: Copies) -> None:
    """Copy what is done, and say where that could not be; the work goes on in any case."""
    try:
        problem = "" if kept.copy() else "something changed meanwhile"
    except OSError as error:
        problem = str(error)
    if problem:
        print(f"nothing was kept in {kept.place} this time: {problem}", file=sys.stderr, flush=True)


def _waited(process: subprocess.Popen) -> int | None:
    """Wait a while for the end of a process, and return its status; None where it goes on."""
    try:
        return process.wait(EVERY)
    except subprocess.TimeoutExpired:
        return None


def _facts(path: str) -> tuple[int, int] | None:
    """Return size and time of a file; of a folder only that it is there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return (0, 0) if os.path.isdir(path) else (found.st_size, found.st_mtime_ns)


def _is_whole(archive: Path) -> bool:
    return _sum_of(archive).is_file() and _sum_of(archive).read_text() == digest(archive)


def _sum_of(archive: Path) -> Path:
    return archive.with_suffix(SUM)


if __name__ == "__main__":
    sys.exit(keep(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
