"""Tensors that are computed once and kept in files, which runs share: bounded in size, checked when read."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from filelock import FileLock
from huggingface_hub.constants import HF_HOME
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import whole_file

FOLDER, SIZE = "HF_COMPRESS_CACHE", "HF_COMPRESS_CACHE_GB"
DEFAULT_GB = 10
TENSOR, CHECKSUM = "tensor", "crc32"


def shared_folder() -> Path:
    """Return the folder that all runs share: `$HF_COMPRESS_CACHE`, or `hf-compress` in `$HF_HOME`."""
    return Path(os.environ.get(FOLDER) or Path(HF_HOME) / "hf-compress").expanduser()


def most_bytes() -> int:
    """Return how much the shared folder may hold: `$HF_COMPRESS_CACHE_GB`, 10 when not given, 0 shares nothing."""
    given = os.environ.get(SIZE, str(DEFAULT_GB))
    try:
        size = float(given)
    except ValueError:
        size = -1.0
    if not 0 <= size < float("inf"):
        raise UsageError(f"the environment variable {SIZE} cannot be {given!r}: give gigabytes, or 0 to share nothing")
    return int(size * 1e9)


class TensorCache:
    """Files of one tensor each in a folder, which is made when needed; several processes may use it at once.

    Beyond `limit` (in bytes) the files that were not used for longest are removed.
    """

    def __init__(self, folder: Path, limit: int | None = None):
        self.folder = folder
        self.limit = limit

    @classmethod
    def for_bytes(cls, size: int, own: Path) -> TensorCache:
        """Return the shared cache where `size` bytes fit into it and onto its disk, otherwise one in `own`."""
        folder, limit = shared_folder(), most_bytes()
        if size <= limit:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError:
                return cls(own)
            if os.access(folder, os.W_OK) and size <= shutil.disk_usage(folder).free:
                return cls(folder, limit)
        return cls(own)

    def get(self, key: str, compute: Callable[[], Tensor]) -> Tensor:
        """Return a tensor, memory-mapped from its file; computed first where that is not there, or damaged.

        A second process that wants the same one meanwhile waits for it. `key` is a hexadecimal digest of all that
        determines the tensor.
        """
        file = self.folder / f"{key}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"lock-{key[:2]}"):
            found = _read(file)
            if found is None:
                computed = compute().contiguous()
                with whole_file(file) as new:
                    save_file({TENSOR: computed}, new, metadata={CHECKSUM: _checksum(computed)})
                found = _read(file)
                if found is None:  # another process made room for its own
                    found = computed
            with suppress(OSError):
                os.utime(file)
        if self.limit is not None:
            self._remove_oldest()
        return found

    def _remove_oldest(self) -> None:
        """Remove files until the others fit; whoever has one mapped keeps what it reads."""
        with FileLock(self.folder / "lock"):
            files = [(file, file.stat()) for file in self.folder.glob("*.safetensors") if file.name[0] != "."]
            total = sum(facts.st_size for _, facts in files)
            for file, facts in sorted(files, key=lambda entry: entry[1].st_mtime_ns):
                if total <= self.limit:
                    break
                file.unlink()
                total -= facts.st_size


def _read(file: Path) -> Tensor | None:
    try:
        with safe_open(file, "pt") as content:
            tensor, checksum = content.get_tensor(TENSOR), (content.metadata() or {}).get(CHECKSUM)
    except (OSError, SafetensorError):
        return None
    return tensor if checksum == _checksum(tensor) else None


def _checksum(tensor: Tensor) -> str:
    return f"{zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy()):08x}"
