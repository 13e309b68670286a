"""Masks: a class for every pixel of a picture, as numbers in a picture of their own."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import tv_tensors

from hf_compress.data.addresses import with_bytes
from hf_compress.data.annotations import Annotation
from hf_compress.data.geometry import as_shown
from hf_compress.data.images import IGNORED_LABEL, input_size
from hf_compress.device.pictures import refuse_oversized

VOID = 255
"""The number of pixels that count for nothing, and the first that is no class."""
NUMBERS = "a mask holds the number of a class for every pixel, in a grey or palette picture of 8 bits"


def decode_mask(picture: dict[str, Any]) -> Tensor:
    """Decode a mask.

    Args:
        picture: `{"bytes": ..., "path": ...}`, the undecoded form of a `datasets.Image`.

    Returns:
        uint8 of shape (height, width): what is stored; of a palette picture the indices.

    Raises:
        Exception: the bytes are not a whole picture, or it holds colours, or numbers above 255.
    """
    with Image.open(io.BytesIO(with_bytes(picture)["bytes"])) as image:
        refuse_oversized(image)
        numbers = np.asarray(image)
    if numbers.ndim == 3 and (numbers == numbers[..., :1]).all():
        numbers = numbers[..., 0]
    if numbers.ndim != 2 or numbers.dtype.kind not in "bui" or numbers.min() < 0 or numbers.max() > VOID:
        raise ValueError(NUMBERS)
    return torch.from_numpy(numbers.astype(np.uint8))


@dataclass(frozen=True, eq=False)
class Mask(Annotation):
    """The stored mask of a picture.

    Attributes:
        rows: undecoded masks, of which this is the one at `index`.
        column: in which they are.
        numbers: what the stored numbers became, uint8 of shape (256,); None where they stayed.
    """

    rows: datasets.Dataset
    column: str
    index: int
    classes: tuple[int, ...]
    numbers: Tensor | None = None

    def parts(self) -> dict[str, Tensor]:
        """Return `mask`, uint8 of the picture's height and width."""
        stored = decode_mask(self.rows[self.index][self.column])
        return {"mask": tv_tensors.Mask(stored if self.numbers is None else self.numbers[stored.long()])}

    def renumbered(self, new: Sequence[int]) -> Mask:
        table = torch.full((VOID + 1,), VOID, dtype=torch.uint8)
        table[: len(new)] = torch.tensor(new, dtype=torch.uint8)
        numbers = table if self.numbers is None else table[self.numbers.long()]
        return replace(self, numbers=numbers, classes=tuple(sorted(new[number] for number in self.classes)))


@dataclass(frozen=True, eq=False)
class AnsweredMask(Annotation):
    """What a model said of a picture: a mask of its input, uint8 of any height and width."""

    seen: Tensor

    @property
    def classes(self) -> tuple[int, ...]:
        return classes_in(self.seen)

    def parts(self) -> dict[str, Tensor]:
        return {"seen": self.seen}

    def renumbered(self, new: Sequence[int]) -> AnsweredMask:
        return AnsweredMask(torch.tensor([*new, *range(len(new), VOID + 1)], dtype=torch.uint8)[self.seen.long()])


def classes_in(mask: Tensor) -> tuple[int, ...]:
    """Return the numbers of a mask that are classes, each once."""
    return tuple(number for number in mask.unique().tolist() if number != VOID)


def masks_shown(items: list[dict[str, Any]], processor: Any) -> Tensor:
    """Return the classes of the pixels that a model sees.

    Args:
        items: of an `ImageSplit` of masks.
        processor: makes the model's input.

    Returns:
        int64 of shape (items, height, width), the size of the input; -100 for void, beside the picture, and where an
        item has no mask.
    """
    height, width = input_size(processor)
    shown = torch.full((len(items), height, width), VOID, dtype=torch.uint8)
    labels = [item["label"] if isinstance(item["label"], dict) else {} for item in items]
    stored = [index for index, label in enumerate(labels) if "mask" in label]
    if stored:  # 0 is what a processor fills with, so that it has to mean void on the way
        shown[stored] = as_shown(processor, [labels[index]["mask"] + 1 for index in stored]) - 1
    for index, label in enumerate(labels):
        if "seen" in label:
            seen = label["seen"][None, None].float()
            shown[index] = F.interpolate(seen, (height, width), mode="nearest-exact")[0, 0].to(torch.uint8)
    found = shown.long()
    return found.masked_fill(found == VOID, IGNORED_LABEL)


def look_at_masks(masks: datasets.Dataset, pictures: datasets.Dataset) -> tuple[list[Mask | None], list[str]]:
    """Look at every mask once.

    Args:
        masks, pictures: one undecoded column each, the same rows.

    Returns:
        The masks, None where there is none or it cannot be used, and for each of these why.
    """
    (column,), (picture_column,) = masks.column_names, pictures.column_names

    def look(index: int, stored: dict[str, Any] | None, picture: dict[str, Any]) -> Mask | str | None:
        if stored is None:
            return None
        try:
            mask = decode_mask(stored)
            if (size := _size_of(picture)) not in (None, (wide := mask.shape[::-1])):
                raise ValueError(f"{wide[0]} x {wide[1]} pixels on a picture of {size[0]} x {size[1]}")
        except Exception as error:  # a damaged file makes Pillow raise anything
            return f"{stored.get('path') or f'of image {index}'} ({error or type(error).__name__})"
        return Mask(masks, column, index, classes_in(mask))

    found: list[Mask | str | None] = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(masks), 256):
            rows = range(start, min(start + 256, len(masks)))
            found += pool.map(look, rows, masks[rows][column], pictures[rows][picture_column])
    return [each if isinstance(each, Mask) else None for each in found], [f for f in found if isinstance(f, str)]


def _size_of(picture: dict[str, Any]) -> tuple[int, int] | None:
    """Return the (width, height) in which a picture is shown; None for what is no picture."""
    try:
        with Image.open(io.BytesIO(with_bytes(picture)["bytes"])) as image:
            turned = image.getexif().get(0x0112, 1) >= 5
            return image.size[::-1] if turned else image.size
    except Exception:
        return None
