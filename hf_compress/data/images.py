"""One split of images as a torch data set, and the batches made from it."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as F

IGNORED_LABEL = -100
MOST_PIXELS = 90_000_000  # a few bytes can hold a picture that fills the memory


def decode(picture: dict[str, Any]) -> Tensor:
    """Decode one stored picture.

    Args:
        picture: `{"bytes": ..., "path": ...}`, the undecoded form of a `datasets.Image`.

    Returns:
        uint8 tensor of shape (3, height, width): RGB, rotated as its EXIF tag says, transparency on white.

    Raises:
        Exception: the bytes are not a whole picture, for which Pillow has many kinds of error, or it is too large.
    """
    source = io.BytesIO(picture["bytes"]) if picture["bytes"] is not None else picture["path"]
    with Image.open(source) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}")
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        elif image.mode.startswith("I;16"):
            image = image.point(lambda value: value / 256).convert("L")
        return F.pil_to_tensor(image.convert("RGB"))


class ImageSplit(torch.utils.data.Dataset):
    """A split: undecoded pictures, their labels, and the augmentation that makes the view both models see.

    Attributes:
        pictures: data set with one undecoded image column.
        labels: one class index a picture; -100 where there is no label.
    """

    def __init__(
        self,
        pictures: datasets.Dataset,
        image_column: str,
        labels: list[int],
        augment: Callable[[Tensor], Tensor] | None = None,
    ):
        self.pictures = pictures
        self.image_column = image_column
        self.labels = labels
        self.augment = augment

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Read a whole batch at once, as torch's `DataLoader` asks when it can: one look-up instead of many."""
        views = [decode(picture) for picture in self.pictures[indices][self.image_column]]
        if self.augment:
            views = [self.augment(view) for view in views]
        return [{"view": view, "label": self.labels[index]} for view, index in zip(views, indices, strict=True)]

    def subset(self, indices: np.ndarray) -> ImageSplit:
        return ImageSplit(
            self.pictures.select(indices), self.image_column, [self.labels[index] for index in indices], self.augment
        )

    def followed_by(self, others: ImageSplit) -> ImageSplit:
        """Return these images and then others, all with the augmentation of these."""
        pictures = others.pictures.rename_columns({others.image_column: self.image_column})
        both = datasets.concatenate_datasets([self.pictures, pictures])
        return ImageSplit(both, self.image_column, self.labels + others.labels, self.augment)

    def without_augmentation(self) -> ImageSplit:
        return ImageSplit(self.pictures, self.image_column, self.labels)

    @property
    def labelled(self) -> bool:
        return IGNORED_LABEL not in self.labels


class Collator:
    """Makes a batch: each model gets the same views in its own size and normalisation.

    Args:
        processor: image processor of the model that is trained or measured.
        teacher_processor: image processor of the teacher, when one looks on.

    Returns (when called with items of an `ImageSplit`):
        `pixel_values` (batch, 3, height, width), `labels` (batch,), and with a teacher `teacher_pixel_values`.
    """

    def __init__(self, processor, teacher_processor=None):
        self.processor = processor
        same = teacher_processor is not None and teacher_processor.to_dict() == processor.to_dict()
        self.teacher_processor = None if same else teacher_processor
        self.share_view = same

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        views = [item["view"] for item in items]
        batch = {
            "pixel_values": preprocess(self.processor, views),
            "labels": torch.tensor([item["label"] for item in items]),
        }
        if self.share_view:
            batch["teacher_pixel_values"] = batch["pixel_values"]
        elif self.teacher_processor is not None:
            batch["teacher_pixel_values"] = preprocess(self.teacher_processor, views)
        return batch


def spread(split: ImageSplit, count: int) -> torch.utils.data.Subset:
    """Return at most `count` images, spread evenly over a split, without augmentation."""
    step = max(1, len(split) // count)
    return torch.utils.data.Subset(split.without_augmentation(), range(0, len(split), step)[:count])


def batches(images: torch.utils.data.Dataset, processor, size: int) -> torch.utils.data.DataLoader:
    """Return batches of `size` images, made by `processor`; see `Collator`."""
    return torch.utils.data.DataLoader(images, batch_size=size, collate_fn=Collator(processor))


def preprocess(processor, views: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
    """Return the `pixel_values` that a model's own image processor makes of uint8 views (3, height, width).

    For an ensemble, a tuple: those of each member.
    """
    if hasattr(processor, "val_transforms"):  # timm's transforms want PIL pictures or floats
        views = [F.to_pil_image(view) for view in views]
    return processor(views, return_tensors="pt")["pixel_values"]


def input_size(processor) -> tuple[int, int]:
    """Return the (height, width) of what the processor makes; of an ensemble, the largest of its members."""
    made = example_input(processor)
    heights, widths = zip(
        *(tensor.shape[-2:] for tensor in (made if isinstance(made, tuple) else [made])), strict=True
    )
    return max(heights), max(widths)


def example_input(processor) -> Tensor | tuple[Tensor, ...]:
    """Return the `pixel_values` of one black picture."""
    return preprocess(processor, [torch.zeros(3, 64, 64, dtype=torch.uint8)])
