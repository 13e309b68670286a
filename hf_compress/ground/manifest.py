"""The manifest of a folder: which files this package wrote there. Only those are ever replaced, removed or published.

A file counts as ours while it has the content that the manifest tells: one that its owner has edited is theirs.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.files import FULL, NEW, sync_tree, write_text

MANIFEST = "hf_compress_manifest.json"
Kind = Literal["run", "study", "files"]
NAMES = {"run": "a run folder", "study": "a study"}


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or path.as_posix() != name:
        raise ValueError("it leads out of the folder")
    return name


Inside = Annotated[str, AfterValidator(_inside)]


class Manifest(BaseModel):
    """What was written into a folder.

    Attributes:
        kind: `run` and `study` folders are made whole; `files` were put beside others.
        files: SHA-256 by path in the folder; two of a file that is being replaced.
        runs: names of the run folders of a study; each has a manifest of its own.
    """

    model_config = ConfigDict(strict=True)

    format: Literal["hf_compress manifest"] = "hf_compress manifest"
    version: Literal[1] = 1
    kind: Kind = "files"
    files: dict[Inside, list[str]] = {}
    runs: list[Inside] = []

    @classmethod
    def of(cls, folder: Path) -> Manifest:
        """Read the manifest of a folder; an empty one where there is none. UsageError: it is damaged, or none."""
        file = folder / MANIFEST
        if not os.path.lexists(file):
            return cls()
        found = None if file.is_symlink() or not file.is_file() else cls.parsed(file.read_bytes())
        if found is None:
            raise UsageError(f"'{file}' is damaged, or not of this package: move it away")
        return found

    @classmethod
    def parsed(cls, text: bytes) -> Manifest | None:
        """Return what a manifest says, or None when it is none, or names something outside its folder."""
        try:
            found = cls.model_validate_json(text)
        except ValidationError:
            return None
        return found if found.model_fields_set == cls.model_fields.keys() else None

    def text(self) -> str:
        ordered = {"files": dict(sorted(self.files.items())), "runs": sorted(self.runs)}
        return self.model_copy(update=ordered).model_dump_json(indent=2) + "\n"

    def owns(self, folder: Path, name: str) -> bool:
        """Return whether the file lies in `folder` as it was written."""
        return name in self.files and is_plain_file(folder, name) and digest(folder / name) in self.files[name]

    def foreign(self, folder: Path) -> Iterator[str]:
        """Find the paths of all that is not ours in a folder, but for the runs of a study."""
        of_runs = {place for run in self.runs for place in (run, f"{run}.partial")}
        for name in entries(folder):
            first, _, rest = name.partition("/")
            if not (rest and first in of_runs) and name != MANIFEST and not self.owns(folder, name):
                yield name


def refuse_other_kind(folder: Path, kind: Literal["run", "study"]) -> None:
    """Raise UsageError where a folder is not of that kind."""
    found = Manifest.of(folder).kind
    if found == kind:
        return
    what = "choose another --output"
    if found != "files":
        what = f"it is {NAMES[found]}; {what}"
    elif (folder / "report.json").is_file():
        what = (
            f"its report.json has no {MANIFEST} beside it that names all files of a run, as in version 0.1; {what}, "
            "or remove it yourself"
        )
    elif folder.is_dir() and (inside := entries(folder)):
        what = f"it holds '{inside[0]}'; {what}"
    raise UsageError(f"output '{folder}' exists and is not {NAMES[kind]}: {what}")


def refuse_to_replace(folder: Path, kind: Literal["run", "study"]) -> None:
    """Raise UsageError where a folder is not of that kind, or holds something that is not ours, and name that."""
    refuse_other_kind(folder, kind)
    for name in Manifest.of(folder).foreign(folder):
        raise UsageError(
            f"output '{folder}' holds '{name}', which is not of that {kind} or was changed since: move it away, or "
            "choose another --output"
        )


def remove_files(folder: Path) -> None:
    """Remove what the manifest names, the folders inside that are empty then, and the manifest, which goes last."""
    manifest = Manifest.of(folder)
    for name in manifest.files:
        if manifest.owns(folder, name):
            (folder / name).unlink()
    for place, *_ in os.walk(folder, topdown=False):
        if not os.listdir(place) and Path(place) != folder:
            os.rmdir(place)
    (folder / MANIFEST).unlink(missing_ok=True)


def claim(folder: Path, names: Iterable[str]) -> None:
    """Raise UsageError where one of the files that are to be written into a folder is there already, and not ours."""
    if os.path.lexists(folder) and not folder.is_dir():
        raise UsageError(f"output '{folder}' is no folder: choose another --output")
    manifest = Manifest.of(folder)
    for name in names:
        free = not os.path.lexists(folder / name) and not _leads_out(folder, name)
        if not free and not manifest.owns(folder, name):
            raise UsageError(
                f"'{folder / name}' would be replaced, but was not written by this package or was changed since: move "
                "it away, or choose another folder"
            )


@contextmanager
def adding(folder: Path, kind: Kind | None = None, runs: Iterable[str] = ()) -> Iterator[Path]:
    """Give an empty folder, from which all files move into `folder` and its manifest when they are whole; see `claim`.

    A process that is killed on the way leaves a manifest that names the old and the new files.

    Raises:
        UsageError: the folder cannot be written; a full disk is a RunError.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=NEW, dir=folder)
    with made as place:
        new = Path(place)
        yield new
        with _writing(folder):
            _move(new, folder, kind, runs)


def _move(new: Path, folder: Path, kind: Kind | None, runs: Iterable[str]) -> None:
    sync_tree(new)
    coming = {name: digest(new / name) for name in entries(new)}
    claim(folder, coming)
    manifest = Manifest.of(folder)
    manifest.kind = kind or manifest.kind
    manifest.runs = [*{*manifest.runs, *runs}]
    manifest.files |= {name: [*manifest.files.get(name, []), sha] for name, sha in coming.items()}
    write_text(folder / MANIFEST, manifest.text())
    for name in coming:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(new / name, folder / name)
    manifest.files |= {name: [sha] for name, sha in coming.items()}
    write_text(folder / MANIFEST, manifest.text())


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind = RunError if error.errno in FULL else UsageError
        raise kind(f"'{folder}' cannot be written: {error.strerror or error}") from None


def record(folder: Path) -> None:
    """Write the manifest of a run folder that was just made: all that lies there."""
    names = [name for name in entries(folder) if name != MANIFEST]
    write_text(folder / MANIFEST, Manifest(kind="run", files={name: [digest(folder / name)] for name in names}).text())


def entries(folder: Path) -> list[str]:
    """Return the paths of all in a folder that is no folder itself; links are not followed."""
    found = []
    for place, folders, files in os.walk(folder, onerror=_raise):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        found += [Path(place, name).relative_to(folder).as_posix() for name in (*files, *links)]
    return sorted(found)


def is_plain_file(folder: Path, name: str) -> bool:
    """Return whether a path in a folder is a file, and no link on the way leads elsewhere."""
    return os.path.isfile(folder / name) and not _leads_out(folder, name)


def digest(content: Path | bytes) -> str:
    """Return the SHA-256 of a file, or of bytes."""
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest()
    with open(content, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _leads_out(folder: Path, name: str) -> bool:
    return os.path.realpath(folder / name) != f"{os.path.realpath(folder)}/{name}"


def _raise(error: OSError) -> None:
    raise UsageError(f"'{error.filename}' cannot be read: {error.strerror}")
