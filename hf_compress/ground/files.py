"""Files and folders that are either whole or not there, whenever the process is killed."""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NEW = ".new-"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


def user_path(text: str | Path) -> Path:
    """Return a path with `~` resolved, where there is such a user."""
    return Path(os.path.expanduser(text))


def split_revision(name: str) -> tuple[str, str]:
    """Return id and revision of ID@REVISION; the path of something that is there is whole, whatever it holds."""
    model, _, revision = name.partition("@")
    return (name, "") if os.path.exists(user_path(name)) else (model, revision)


def missing_folder(name: str) -> bool:
    """Tell whether a name, which may be a Hub id, can only be that of a folder, and there is nothing of that name."""
    is_path = name.startswith(("/", ".", "~")) or (name.count("/") > 1 and "://" not in name)
    return is_path and not os.path.exists(user_path(name))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path with the same suffix, and rename what was written there to `path` once it is on the disk.

    Until then `path` holds what it held before; so it does after an error.
    """
    new = path.with_name(NEW + path.name)
    try:
        yield new
        _sync(new)
        os.replace(new, path)
    finally:
        new.unlink(missing_ok=True)
    _sync(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give an empty temporary folder, and rename it to `path` once all that was written there is on the disk."""
    new = path.with_name(NEW + path.name)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    yield new
    sync_tree(new)
    if path.exists():
        shutil.rmtree(path)
    os.replace(new, path)
    _sync(path.parent)


def read_text(path: Path, most: int) -> str:
    """Return the text of a file that anyone may have written, of at most `most` characters.

    Raises:
        ValueError: it is no regular file of UTF-8 text, or longer; the message is one sentence about it.
    """
    try:
        if not path.is_file():
            raise ValueError("it is no regular file")
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(most + 1)
    except UnicodeDecodeError:
        raise ValueError("it is no text in UTF-8") from None
    except OSError as error:
        raise ValueError(f"it cannot be read ({error.strerror})") from None
    if len(text) > most:
        raise ValueError(f"it is longer than {most:,} characters")
    return text


def write_text(path: Path, text: str) -> None:
    """Replace a text file by a whole one."""
    with whole_file(path) as new:
        new.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file by a whole one; floats are kept to the last bit."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def sync_tree(folder: Path) -> None:
    """Wait until everything in a folder is on the disk."""
    for place in (*folder.rglob("*"), folder):
        _sync(place)


def write_problem(error: BaseException, folder: Path) -> str | None:
    """Return what the operating system said, when an error means that a file could not be written; otherwise None.

    Safetensors and torch raise errors of their own for a full disk. In `folder` it is writing that is not permitted;
    elsewhere it may be reading.
    """
    if isinstance(error, OSError):
        forbidden = isinstance(error, PermissionError) and str(error.filename).startswith(str(folder))
        said = f"{os.strerror(error.errno or 0)}{f' ({error.filename})' if error.filename else ''}"
        return said if forbidden or error.errno in FULL else None
    if type(error).__name__ == "SafetensorError" and (code := re.search(r"os error (\d+)", str(error))):
        return os.strerror(int(code[1]))
    if isinstance(error, RuntimeError) and "inline_container" in str(error):
        return "the disk is full, or a limit on the size of files was reached"
    return None


def _sync(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
