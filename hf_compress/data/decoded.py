"""Pictures that stay in memory after they were decoded to be checked, as far as there is room."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NOT_KEPT = -1


@dataclass
class Room:
    """Memory for decoded pictures, in bytes, that all splits share."""

    left: int

    def take(self, size: int) -> bool:
        """Take `size` bytes, if so many are left."""
        fits = size <= self.left
        self.left -= size if fits else 0
        return fits


@dataclass
class Decoded:
    """What is known of pictures that were decoded once, in the order of the stored ones.

    Attributes:
        digests: of the stored bytes, uint8 of shape (pictures, 32).
        places: block, first byte, height and width of each picture, shape (pictures, 4); block -1: not in memory.
        blocks: the pixels of many pictures one after the other, each as (height, width, 3). Few and large, so that
            processes which load data get them at once.
    """

    digests: np.ndarray
    places: np.ndarray
    blocks: list[Tensor]

    @classmethod
    def of(cls, pictures: list[tuple[bytes, Tensor]], room: Room) -> Decoded:
        """Keep decoded pictures, each given with the digest of its stored bytes, while there is room."""
        places, kept, start = [], [], 0
        for _, pixels in pictures:
            _, height, width = pixels.shape
            if room.take(pixels.nbytes):
                places.append((0, start, height, width))
                kept.append(pixels.permute(1, 2, 0).reshape(-1))
                start += pixels.nbytes
            else:
                places.append((NOT_KEPT, 0, height, width))
        digests = np.frombuffer(b"".join(digest for digest, _ in pictures), dtype=np.uint8)
        return cls(
            digests.reshape(-1, hashlib.sha256().digest_size),
            np.array(places, dtype=np.int64).reshape(-1, 4),
            [torch.cat(kept)] if kept else [],
        )

    @classmethod
    def joined(cls, parts: list[Decoded]) -> Decoded:
        """Return all pictures of several parts, one after the other."""
        places, blocks = [], []
        for part in parts:
            moved = part.places.copy()
            moved[moved[:, 0] != NOT_KEPT, 0] += len(blocks)
            places.append(moved)
            blocks += part.blocks
        return cls(np.concatenate([part.digests for part in parts]), np.concatenate(places), blocks)

    def __getitem__(self, index: int) -> Tensor | None:
        """Return a picture with the values and the strides that `decode` gave it; None where it is not in memory."""
        block, start, height, width = self.places[index].tolist()
        if block == NOT_KEPT:
            return None
        pixels = self.blocks[block][start : start + 3 * height * width]
        return pixels.view(height, width, 3).permute(2, 0, 1)

    @property
    def keys(self) -> np.ndarray:
        """The digests as one value a picture, which numpy can compare and sort."""
        return np.ascontiguousarray(self.digests).view(f"V{hashlib.sha256().digest_size}").ravel()

    def subset(self, indices: Sequence[int]) -> Decoded:
        return Decoded(self.digests[indices], self.places[indices], self.blocks)

    @property
    def fingerprint(self) -> str:
        """What identifies these pictures in this order."""
        return hashlib.sha256(self.digests.tobytes()).hexdigest()
