"""One split of images as a torch data set, and the batches made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from hf_compress.data.addresses import with_bytes
from hf_compress.data.annotations import Annotation, as_item
from hf_compress.data.decoded import Decoded
from hf_compress.data.geometry import moved
from hf_compress.data.mixing import Mixing, partner_of, random_of
from hf_compress.device.pictures import read_picture
from hf_compress.ground.errors import RunError

IGNORED_LABEL = -100
GOLDEN_RATIO = (5**0.5 - 1) / 2


def decode(picture: dict[str, Any]) -> Tensor:
    """Decode one stored picture.

    Args:
        picture: `{"bytes": ..., "path": ...}`, the undecoded form of a `datasets.Image`.

    Returns:
        uint8 tensor of shape (3, height, width): see `read_picture`.

    Raises:
        Exception: as there.
    """
    return torch.from_numpy(read_picture(with_bytes(picture)["bytes"])).permute(2, 0, 1)


@dataclass(eq=False, repr=False)
class ImageSplit(torch.utils.data.Dataset):
    """A split: undecoded pictures, their labels, and the augmentation that makes the view all models see.

    Attributes:
        pictures: data set with one undecoded image column.
        decoded: those of them that are in memory.
        labels: one class index, or `Annotation`, a picture; -100 where there is no label.
        augment: maps a picture, and what an annotation tells of it, to a view; None shows the pictures themselves.
        mixing: mixes each view with one of another picture; which, and how, depends on the seed, the picture and the
            view's number alone.
        views: how many views of a picture are shown, one an epoch in turn; None draws new ones for ever.
        seed: of these views.
        epoch: counted from 0.
        epoch_length: how many pictures an epoch shows, going through all again and again, in new views; None: each
            once.
        teacher_outputs: for each view number, what a teacher says to the pictures: tensors by name, the pictures along
            the first dimension.
    """

    pictures: datasets.Dataset
    image_column: str
    labels: list[Any]
    decoded: Decoded
    augment: Callable[..., Any] | None = None
    mixing: Mixing | None = None
    views: int | None = None
    seed: int = 0
    epoch: int = 0
    epoch_length: int | None = None
    teacher_outputs: list[dict[str, Tensor]] | None = None

    def __len__(self) -> int:
        return self.epoch_length or len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """Read a whole batch at once, as torch's `DataLoader` asks when it can: one look-up instead of many."""
        shown = [self._shown(index) for index in indices]
        items = self._unmixed(shown)
        if self.mixing is not None:
            random = [random_of(self.seed, *each) for each in shown]
            partners = self._unmixed(
                [
                    (partner_of(index, len(self.labels), own), view)
                    for (index, view), own in zip(shown, random, strict=True)
                ]
            )
            items = [self.mixing.mixed(*given) for given in zip(items, partners, random, strict=True)]
        if self.teacher_outputs is not None:
            for item, (index, view) in zip(items, shown, strict=True):
                item["teacher_output"] = {name: tensor[index] for name, tensor in self.teacher_outputs[view].items()}
        return items

    @property
    def repeats_after(self) -> int | None:
        """The number of epochs after which a picture is shown as before; None where each view is new."""
        return 1 if self.augment is None and self.mixing is None else self.views

    @property
    def view_number(self) -> int:
        """Which view the pictures show in this epoch, counted from 0."""
        return self._view_number(self.epoch)

    @property
    def fingerprint(self) -> str:
        """What identifies the views of this epoch, where they repeat."""
        shown = None if self.augment is None else (self.augment, self.seed, self.view_number)
        mixed = "" if self.mixing is None else f" {self.mixing, self.seed, self.view_number}"
        return f"{self.decoded.fingerprint} {shown}{mixed}"

    def subset(self, indices: np.ndarray) -> ImageSplit:
        return self._changed(
            pictures=self.pictures.select(indices),
            labels=[self.labels[index] for index in indices],
            decoded=self.decoded.subset(indices),
        )

    def followed_by(self, others: ImageSplit) -> ImageSplit:
        """Return these images and then others, all augmented and mixed as these are."""
        pictures = others.pictures.rename_columns({others.image_column: self.image_column})
        return self._changed(
            pictures=datasets.concatenate_datasets([self.pictures, pictures]),
            labels=self.labels + others.labels,
            decoded=Decoded.joined([self.decoded, others.decoded]),
        )

    def augmented(self, augment: Callable[..., Any] | None, mixing: Mixing | None = None) -> ImageSplit:
        """Return these images in the views that `augment` and then `mixing` make."""
        return self._changed(augment=augment, mixing=mixing)

    def without_augmentation(self) -> ImageSplit:
        return self.augmented(None)

    def with_labels(self, labels: list[Any]) -> ImageSplit:
        """Return these images with other labels, one an image."""
        return self._changed(labels=labels)

    def in_epochs_of(self, length: int | None) -> ImageSplit:
        """Return these images in longer epochs: see `epoch_length`."""
        return self._changed(epoch_length=length)

    def in_new_views(self) -> ImageSplit:
        """Return these images in views that never repeat."""
        return self._changed(views=None)

    def in_epoch(self, epoch: int) -> ImageSplit:
        return self._changed(epoch=epoch)

    def answered(self, teacher_outputs: list[dict[str, Tensor]]) -> ImageSplit:
        """Return these images, each with what a teacher says to it, in as many views: see `teacher_outputs`."""
        return self._changed(teacher_outputs=teacher_outputs, views=len(teacher_outputs))

    @property
    def labelled(self) -> bool:
        return IGNORED_LABEL not in self.labels

    def _changed(self, **attributes: Any) -> ImageSplit:
        return replace(self, **{"teacher_outputs": None, **attributes})

    def _shown(self, index: int) -> tuple[int, int]:
        """Return which picture an index means in this epoch, and which view of it."""
        if self.epoch_length is None:
            return index, self.view_number
        times, picture = divmod(self.epoch * self.epoch_length + index, len(self.labels))
        return picture, self._view_number(times)

    def _view_number(self, times: int) -> int:
        """Return which view a picture shows that was shown so many times before."""
        return times if self.repeats_after is None else times % self.repeats_after

    def _unmixed(self, shown: list[tuple[int, int]]) -> list[dict[str, Any]]:
        indices = [index for index, _ in shown]
        return [self._item(picture, *each) for picture, each in zip(self._read(indices), shown, strict=True)]

    def _read(self, indices: list[int]) -> list[Tensor]:
        pictures = [self.decoded[index] for index in indices]
        missing = [index for index, picture in zip(indices, pictures, strict=True) if picture is None]
        stored = iter(self.pictures[missing][self.image_column]) if missing else iter(())
        return [decode(next(stored)) if picture is None else picture for picture in pictures]

    def _item(self, picture: Tensor, index: int, number: int) -> dict[str, Any]:
        label = self.labels[index]
        if self.augment is None:
            return {"view": picture, "label": as_item(label)}
        if self.views is None:
            return self._augmented(picture, label)
        with torch.random.fork_rng(devices=[]):
            (seed,) = np.random.SeedSequence([self.seed, index, number]).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(seed))
            return self._augmented(picture, label)

    def _augmented(self, picture: Tensor, label: Any) -> dict[str, Any]:
        if not isinstance(label, Annotation):
            return {"view": self.augment(picture), "label": label}
        view, parts = moved(self.augment, picture, label.parts())
        return {"view": view, "label": label.in_view(parts)}


Targets = Callable[[list[dict[str, Any]], Any], dict[str, Tensor]]


def class_indices(items: list[dict[str, Any]], processor: Any = None) -> dict[str, Tensor]:
    """Return the labels of items as `labels` (batch,).

    Of mixed items also `partner_labels` (batch,) and `shares` (batch,), how much of each picture has the first label.
    """
    names = {"labels": "label", "partner_labels": "partner_label", "shares": "share"}
    return {plural: torch.tensor([item[name] for item in items]) for plural, name in names.items() if name in items[0]}


def no_targets(items: list[dict[str, Any]], processor: Any = None) -> dict[str, Tensor]:
    """Return nothing: for whoever looks at pictures alone, whatever their labels are."""
    return {}


class Collator:
    """Makes a batch: each model gets the same views in its own size and normalisation.

    Args:
        teacher_processor: image processor of the teacher, when one looks on.
        targets: makes of the items, for what `processor` shows of them, what a batch holds beside the pixels.

    Returns (when called with items of an `ImageSplit`):
        `pixel_values` (batch, 3, height, width), what `targets` gives, and with a teacher `teacher_pixel_values`, or
        instead of these `teacher_outputs`, tensors by name, where the items have what it says.
    """

    def __init__(self, processor, teacher_processor=None, targets: Targets = class_indices):
        self.processor, self.teacher_processor, self.targets = processor, teacher_processor, targets
        self.share_view = teacher_processor is not None and teacher_processor.to_dict() == processor.to_dict()

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Tensor]:
        views = [item["view"] for item in items]
        batch = {"pixel_values": preprocess(self.processor, views), **self.targets(items, self.processor)}
        if "teacher_output" in items[0]:
            batch["teacher_outputs"] = {
                name: torch.stack([item["teacher_output"][name] for item in items])
                for name in items[0]["teacher_output"]
            }
        elif self.share_view:
            batch["teacher_pixel_values"] = batch["pixel_values"]
        elif self.teacher_processor is not None:
            batch["teacher_pixel_values"] = preprocess(self.teacher_processor, views)
        return batch


def fitting_batch(processor, most: int) -> int:
    """Return how many pictures hold no more pixels than `most` of 224 x 224, but at least one."""
    return fitting_number(*input_size(processor), most)


def fitting_number(height: int, width: int, most: int) -> int:
    """The same for pictures of a size."""
    return min(most, max(1, most * 224**2 // (height * width)))


def spread(split: ImageSplit, count: int) -> torch.utils.data.Subset:
    """Return at most `count` images, spread evenly over a split, without augmentation.

    They come mixed, the first of them spread as evenly as all: splits may be sorted by class, and what looks at
    batches, or at a few images, is to see all classes.
    """
    chosen = evenly_spread(len(split), count)
    places = sorted(range(len(chosen)), key=lambda place: place * GOLDEN_RATIO % 1)  # which spreads however many
    mixed = [index for _, index in sorted(zip(places, chosen, strict=True))]
    return torch.utils.data.Subset(split.without_augmentation(), mixed)


def evenly_spread(total: int, count: int) -> list[int]:
    """Return at most `count` of the indices 0 .. total - 1, each in the middle of its share of them."""
    count = min(total, count)
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


def batches(
    images: torch.utils.data.Dataset, processor, size: int, targets: Targets = no_targets
) -> torch.utils.data.DataLoader:
    """Return batches of `size` images, made by `processor`, and what `targets` gives; see `Collator`."""
    return torch.utils.data.DataLoader(images, batch_size=size, collate_fn=Collator(processor, targets=targets))


def preprocess(processor, views: list[Tensor]) -> Tensor | tuple[Tensor, ...]:
    """Return the `pixel_values` that a model's own image processor makes of uint8 views (3, height, width).

    For an ensemble, a tuple: those of each member.
    """
    if hasattr(processor, "val_transforms"):  # timm's transforms want PIL pictures or floats
        views = [F.to_pil_image(view) for view in views]
    return processor(views, return_tensors="pt")["pixel_values"]


def refuse_many_sizes(name: str, processor) -> None:
    """Raise RunError where pictures of different shapes do not become one size, and so do not fit into one batch."""
    wide, high = (
        preprocess(processor, [torch.zeros(3, *size, dtype=torch.uint8)]).shape for size in ((64, 96), (96, 64))
    )
    if wide != high:
        raise RunError(
            f"{name} cannot be used: its image processor makes pictures of different sizes ({wide[-2]} x {wide[-1]}, "
            f"{high[-2]} x {high[-1]}): in preprocessor_config.json, set 'do_resize' to true and 'size' to "
            '{"height": ..., "width": ...}'
        )


def input_size(processor) -> tuple[int, int]:
    """Return the (height, width) of what the processor makes; of an ensemble, the largest of its members."""
    made = example_input(processor)
    sizes = [tensor.shape[-2:] for tensor in (made if isinstance(made, tuple) else [made])]
    return max(height for height, _ in sizes), max(width for _, width in sizes)


def example_input(processor) -> Tensor | tuple[Tensor, ...]:
    """Return the `pixel_values` of one black picture."""
    return preprocess(processor, [torch.zeros(3, 64, 64, dtype=torch.uint8)])


def noise(count: int) -> list[Tensor]:
    """Return pictures of random pixels, always the same: uint8, (3, 64, 64)."""
    generator = torch.Generator().manual_seed(0)
    return list(torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=generator))
