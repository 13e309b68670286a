"""The files of a folder, each of which is used or left out for a reason."""

import os
import stat
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from hf_compress.data.formats import ending_of, kind_of
from hf_compress.ground.errors import RunError

SYSTEM = {"__macosx", "__pycache__", "$recycle.bin", "system volume information", "lost+found"}
SYSTEM |= {"thumbs.db", "desktop.ini"}
HIDDEN = "hidden or system files"


class FolderError(Exception):
    """A folder is not what it has to be; says in half a sentence what is wrong and what to do."""


@dataclass
class LeftOut:
    """Files of the user's that are not used: why, in words that follow "left out: ", how many, and the path of one."""

    reason: str
    count: int
    example: str


class File(NamedTuple):
    """A file.

    Attributes:
        parts: of its path within the folder.
        kind: what it holds, see `formats.kind_of`; `none` for what cannot be read at all.
        reason: why it is left out where nothing makes use of it.
    """

    parts: tuple[str, ...]
    kind: str
    reason: str

    @property
    def name(self) -> str:
        return "/".join(self.parts).encode(errors="backslashreplace").decode()

    @property
    def ending(self) -> str:
        return ending_of(self.parts[-1])


@dataclass
class Folder:
    """All that lies in a folder.

    Attributes:
        root: its path, or address on the Hub.
        files: sorted by their paths.
        folders: parts of the paths of the folders in it, without hidden ones; sorted.
    """

    root: Path | str
    files: list[File] = field(default_factory=list)
    folders: list[tuple[str, ...]] = field(default_factory=list)

    def path(self, file: File) -> str:
        return os.path.join(self.root, *file.parts)

    def of_kind(self, *kinds: str) -> list[File]:
        return [file for file in self.files if file.kind in kinds]

    def under(self, parts: tuple[str, ...]) -> list[File]:
        return [file for file in self.files if file.parts[: len(parts)] == parts]

    def left_out(self, used: Iterable[File], reasons: dict[File, str]) -> list[LeftOut]:
        """Return what is not used, most first; `reasons` say why where a file's own reason does not."""
        used = list(used)
        found: dict[str, list[File]] = {}
        for file in sorted(set(self.files) - set(used)):
            if reason := reasons.get(file) or file.reason:
                found.setdefault(reason, []).append(file)
        left = [LeftOut(reason, len(files), files[0].name) for reason, files in found.items()]
        if len(used) + sum(item.count for item in left) != len(self.files):
            raise RunError(
                f"of {len(self.files)} files in {self.root}, {len(used)} are used and "
                f"{sum(item.count for item in left)} left out, which does not add up: please report this as a bug"
            )
        return sorted(left, key=lambda item: (-item.count, item.reason))


def scan(root: Path) -> Folder:
    """Find everything in a folder; links are followed, except in circles. FolderError: one cannot be read."""
    folder = Folder(root)
    waiting = [((), frozenset({_identity(os.stat(root))}), False)]
    while waiting:
        parts, above, hidden = waiting.pop()
        try:
            entries = list(os.scandir(os.path.join(root, *parts)))
        except OSError as error:
            if hidden:
                continue
            raise FolderError(
                f"{shown_path(parts)} cannot be read ({error.strerror}): permit it, or move it away"
            ) from None
        for entry in entries:
            inside = (*parts, entry.name)
            secret = hidden or _secret(entry.name)
            if file := _file(entry.path, inside, secret, above):
                folder.files.append(file)
                continue
            waiting.append((inside, above | {_identity(os.stat(entry.path))}, secret))
            if not secret:
                folder.folders.append(inside)
    folder.files.sort()
    folder.folders.sort()
    return folder


def listed(root: str, names: Iterable[str]) -> Folder:
    """Return a repository of the Hub, its address and the names of its files, as a folder; nothing is downloaded."""
    folder, folders = Folder(root), set()
    for parts in sorted(tuple(name.split("/")) for name in names):
        hidden = any(map(_secret, parts))
        folder.files.append(File(parts, "none", HIDDEN) if hidden else File(parts, *kind_of("/".join((root, *parts)))))
        folders |= {parts[:depth] for depth in range(1, len(parts)) if not any(map(_secret, parts[:depth]))}
    folder.folders = sorted(folders)
    return folder


def _secret(name: str) -> bool:
    return name.startswith(".") or name.lower() in SYSTEM


def _file(path: str, parts: tuple[str, ...], hidden: bool, above: frozenset[tuple[int, int]]) -> File | None:
    """Return what lies at a path; None for a folder that is to be looked into."""
    try:
        status = os.stat(path)
    except OSError:
        return File(parts, "none", HIDDEN if hidden else "links that lead nowhere")
    if stat.S_ISDIR(status.st_mode):
        return File(parts, "none", "links in a circle") if _identity(status) in above else None
    if hidden:
        return File(parts, "none", HIDDEN)
    if not stat.S_ISREG(status.st_mode):
        return File(parts, "none", "pipes, devices and sockets")
    if not os.access(path, os.R_OK):
        return File(parts, "none", "files without permission to read them")
    try:
        "/".join(parts).encode()
    except UnicodeEncodeError:
        return File(parts, "none", "files whose path is not UTF-8: rename them")
    return File(parts, *kind_of(path))


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def shown_path(parts: tuple[str, ...]) -> str:
    """Return a path within the folder; `it` is the folder itself."""
    return repr("/".join(parts)) if parts else "it"


def some(names: Iterable[str]) -> str:
    """Return the first three names, and how many more there are."""
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(map(repr, names[:3])) + more


def reasons_in_words(files: Iterable[File]) -> str:
    """Return how many files are left out for which reason."""
    return "; ".join(f"{count} {reason}" for reason, count in Counter(file.reason for file in files).most_common(3))
