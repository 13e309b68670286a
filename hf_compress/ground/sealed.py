"""Files and folders of unfinished work that tell when they were damaged: a checksum lies beside or in them."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_compress.ground.errors import RunError
from hf_compress.ground.files import NEW, read_json, whole_folder, write_json
from hf_compress.ground.manifest import digest

SEAL, GONE = ".sums-", ".gone-"


@contextmanager
def sealed_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder that becomes `path` when it is whole; what it holds then is known."""
    with whole_folder(path) as new:
        yield new
        write_json(_seal(path), _sums(new))


def sealed_in(folder: Path) -> list[Path]:
    """Return the places of the sealed folders in a folder, also of those that are lost.

    Those whose writing or removal was interrupted are not among them.
    """
    places = [seal.with_name(seal.stem.removeprefix(SEAL)) for seal in folder.glob(f"{SEAL}*.json")]
    return [place for place in places if place.exists() or not any(map(Path.exists, _unfinished(place)))]


def remove_sealed(path: Path) -> None:
    """Remove a sealed folder, and what is known of it; whenever that is interrupted, it is whole or gone."""
    _, gone = _unfinished(path)
    shutil.rmtree(gone, ignore_errors=True)
    path.rename(gone)
    _seal(path).unlink(missing_ok=True)
    shutil.rmtree(gone)


def refuse_damaged(path: Path, work: Path) -> None:
    """Raise RunError where a file of a sealed folder is missing, added or changed, and say that `work` is to go."""
    try:
        written = read_json(_seal(path))
    except (OSError, ValueError):
        written = None
    found = _sums(path)
    if written == found:
        return
    sums = written if isinstance(written, dict) else {}
    file = next((name for name in sorted(found.keys() | sums) if found.get(name) != sums.get(name)), None)
    place = path if file is None else path / file
    raise RunError(
        f"'{place}' was damaged since it was written: remove '{work}', so that --resume does that part again"
    )


def write_sealed(path: Path, value: Any) -> None:
    """Replace a JSON file by a whole one that holds `value` and its checksum."""
    write_json(path, {"value": value, "sha256": _digest(value)})


def read_sealed(path: Path) -> Any:
    """Return the value of such a file; raise RunError where it is missing or was damaged."""
    try:
        content = read_json(path)
        if content["sha256"] == _digest(content["value"]):
            return content["value"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        pass
    raise RunError(f"'{path}' is missing or was damaged: restore it, or move '{path.parent}' away to start anew")


def _digest(value: Any) -> str:
    return digest(json.dumps(value, sort_keys=True).encode())


def _sums(folder: Path) -> dict[str, str]:
    files = (place for place in sorted(folder.rglob("*")) if place.is_file())
    return {file.relative_to(folder).as_posix(): digest(file) for file in files}


def _unfinished(folder: Path) -> tuple[Path, Path]:
    """Return where a sealed folder is before it is whole, and while it is removed."""
    return folder.with_name(NEW + folder.name), folder.with_name(GONE + folder.name)


def _seal(folder: Path) -> Path:
    return folder.with_name(f"{SEAL}{folder.name}.json")
