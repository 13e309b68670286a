"""Units: pieces of work that are done once, however often a run is interrupted."""

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_compress.ground import processes
from hf_compress.ground.files import NEW, read_json, write_json
from hf_compress.ground.sealed import SEAL, refuse_damaged, sealed_folder

VALUE = "value.json"
WORK = ".work-"


class Units:
    """Pieces of work, each of which leaves its result in a folder that appears when it is whole.

    What follows reads the result from that folder, in the process that made it, too: an interrupted run cannot differ
    from an uninterrupted one. For the same reason every unit starts with the same random state. Several processes do
    a unit together, the main one writes the result, and all read that.

    Args:
        folder: where the results lie; made when needed.
        seed: of Python's, NumPy's and torch's random numbers at the start of each unit.
    """

    def __init__(self, folder: Path, seed: int):
        self.folder = folder
        self.seed = seed
        self._seen: set[Path] = set()

    def once(self, name: str, work: Callable[[Path, Path], None], alone: bool = False) -> Path:
        """Do a unit, unless it is done, and return the folder of its result.

        Args:
            name: different for each unit.
            work: called with an empty folder for the result, and with a folder that outlives an interruption: what
                training in progress needs to go on lies there until the unit is done.
            alone: of several processes the main one works, and the others wait: for what is timed, or trains nothing.

        Raises:
            RunError: the result was damaged since it was written.
        """
        from transformers import set_seed

        result = self.folder / re.sub(r"[^\w.-]+", "-", name)
        if not processes.on_main(lambda: self._is_whole(result)):
            in_progress = result.with_name(WORK + result.name)
            set_seed(self.seed)
            if processes.is_main() or not alone:
                with sealed_folder(result) if processes.is_main() else tempfile.TemporaryDirectory() as new:
                    work(Path(new), in_progress)
            processes.wait()
            self._seen.add(result)
            if processes.is_main():
                shutil.rmtree(in_progress, ignore_errors=True)
        return result

    def value(self, name: str, compute: Callable[[], Any], alone: bool = False) -> Any:
        """Do a unit whose result is plain data, as JSON holds it, and return that; see `once` for `alone`."""
        return read_json(self.once(name, lambda new, _: write_json(new / VALUE, compute()), alone) / VALUE)

    def done(self) -> list[str]:
        """Return the names of the finished units' folders, in the order in which they were finished."""
        found = [place for place in self.folder.glob("*") if not place.name.startswith((NEW, WORK, SEAL))]
        return [place.name for place in sorted(found, key=lambda place: place.stat().st_mtime_ns)]

    def hold_work(self) -> bool:
        """Return whether something would be lost with the folder: a finished unit, or a part of one in progress."""
        return bool(self.done()) or any(self.folder.glob(f"{WORK}*/*"))

    def _is_whole(self, result: Path) -> bool:
        """Return whether a unit is done; what an earlier process wrote is looked at once."""
        if not result.is_dir():
            return False
        if result not in self._seen:
            refuse_damaged(result, result)
            self._seen.add(result)
        return True
