"""A bound on the memory of tensors: what was not read for longest lies in files."""

from __future__ import annotations

import ctypes
import tempfile
import weakref
from pathlib import Path
from typing import Any

from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

SMALL = 2**20  # bytes: what takes less stays in memory


class Spilling(TorchDispatchMode):
    """A `with` block in which the tensors that operations make on the CPU take at most `most` bytes of memory.

    Beyond that, those that were read longest ago lie in temporary files, and come back when an operation reads them;
    what a single operation reads and makes is in memory, however much that is.

    Attributes:
        held: bytes that are in memory.
    """

    def __init__(self, most: int):
        super().__init__()
        self.most, self.held = most, 0
        self._in_memory: dict[int, weakref.ref[UntypedStorage]] = {}  # in the order in which they were read
        self._in_files: dict[int, weakref.ref[UntypedStorage]] = {}

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        for key in list(self._in_files):
            self._fetch(key)
        self._folder.cleanup()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        read = _storages((args, kwargs))
        for key in read:
            if key in self._in_files:
                self._fetch(key)
            elif key in self._in_memory:
                self._in_memory[key] = self._in_memory.pop(key)
        out = func(*args, **kwargs)
        for key, storage in _storages(out).items():
            if key not in read and storage.nbytes() >= SMALL:
                self._in_memory[key] = weakref.ref(storage)
                self.held += storage.nbytes()
                weakref.finalize(storage, self._forget, key, storage.nbytes())
        while self.held > self.most:
            self._spill(next(iter(self._in_memory)))
        return out

    def _spill(self, key: int) -> None:
        storage = self._in_memory[key]()
        if not storage.resizable():  # NumPy has it, too
            self._forget(key, storage.nbytes())
            return
        self.held -= storage.nbytes()
        self._file(key).write_bytes(_content(storage))
        storage.resize_(0)
        self._in_files[key] = self._in_memory.pop(key)

    def _fetch(self, key: int) -> None:
        storage = self._in_files[key]()
        storage.resize_(self._file(key).stat().st_size)
        with self._file(key).open("rb") as file:
            file.readinto(_content(storage))
        self._file(key).unlink()
        self.held += storage.nbytes()
        self._in_memory[key] = self._in_files.pop(key)

    def _forget(self, key: int, size: int) -> None:
        if self._in_memory.pop(key, None) is not None:
            self.held -= size
        elif self._in_files.pop(key, None) is not None:
            self._file(key).unlink()

    def _file(self, key: int) -> Path:
        return Path(self._folder.name, str(key))


def _storages(values: Any) -> dict[int, UntypedStorage]:
    """Return what the tensors among `values` that are on the CPU lie in, by its identity."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.device.type == "cpu"]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {id(storage): storage for storage in storages}


def _content(storage: UntypedStorage) -> ctypes.Array:
    """Return the bytes themselves; NumPy would forbid to resize what they lie in."""
    return (ctypes.c_byte * storage.nbytes()).from_address(storage.data_ptr())
