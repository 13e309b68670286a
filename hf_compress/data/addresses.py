"""Files here and on the Hub, opened alike."""

from __future__ import annotations

import os
from typing import IO

import fsspec
import huggingface_hub

HUB = "hf://datasets/"


def opened(file: str) -> IO[bytes]:
    """Open a local path, or an address (`hf://...`, `zip://...`), of which only what is read is fetched."""
    if file.startswith(HUB):
        repository, _, inner = file.removeprefix(HUB).partition("@")
        commit, _, name = inner.partition("/")
        copy = huggingface_hub.try_to_load_from_cache(repository, name, revision=commit, repo_type="dataset")
        return open(copy, "rb") if isinstance(copy, str) else huggingface_hub.HfFileSystem().open(file, "rb")
    local = os.path.exists(file)  # whose name may hold anything that fsspec would follow
    return open(file, "rb") if local else fsspec.open(file, "rb").open()
