"""Files here and on the Hub, opened alike."""

import os
from contextlib import AbstractContextManager
from typing import IO, Any

import fsspec
import huggingface_hub

HUB = "hf://datasets/"


def opened(file: str) -> AbstractContextManager[IO[bytes]]:
    """Open a local path, or an address (`hf://...`, `zip://...`), of which only what is read is fetched."""
    file = local_copy(file) or file
    if os.path.exists(file):  # whose name may hold anything that fsspec would follow
        return open(file, "rb")
    if file.startswith(HUB):
        return huggingface_hub.HfFileSystem().open(file, "rb")
    return fsspec.open(file, "rb")


def local_copy(address: str) -> str | None:
    """Return the path of the downloaded copy of a file of the Hub; None where there is none."""
    if not address.startswith(HUB):
        return None
    repository, _, inner = address.removeprefix(HUB).partition("@")
    commit, _, name = inner.partition("/")
    copy = huggingface_hub.try_to_load_from_cache(repository, name, revision=commit, repo_type="dataset")
    return copy if isinstance(copy, str) else None


def with_bytes(picture: dict[str, Any]) -> dict[str, Any]:
    """Return an undecoded picture with its bytes, read from its path, which may be an address."""
    if picture["bytes"] is not None:
        return picture
    with opened(picture["path"]) as file:
        return {"bytes": file.read(), "path": picture["path"]}
