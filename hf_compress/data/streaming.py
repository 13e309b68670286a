"""Training images that are read anew for each epoch and never kept, for data larger than the disk."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from hf_compress.data.addresses import with_bytes
from hf_compress.data.decoded import Room
from hf_compress.data.images import IGNORED_LABEL, ImageSplit, decode
from hf_compress.data.mixing import Mixing, random_of
from hf_compress.data.parts import Parts
from hf_compress.data.sources import read_pictures
from hf_compress.data.splits import USUAL_NAMES
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.machine import failure_of
from hf_compress.ground.registry import did_you_mean
from hf_compress.sections.data import DataSection

BUFFER = 2048
SAMPLED_LABELS = 2048
MOST_HELD_OUT = 10_000
logger = logging.getLogger(__name__)


@dataclass(eq=False, repr=False)
class ImageStream(torch.utils.data.IterableDataset):
    """Training images in another order each epoch: files in random order, and a buffer that is shuffled.

    A data set that has fewer images than an epoch is read again from its start.

    Attributes:
        rows: undecoded images.
        label_column: of class indices; None where there are no labels.
        length: images an epoch.
        on_corrupt: `skip` or `stop`.
        held_out: digests of the stored bytes of validation and test images.
        on_leak: `warn` of the first of these that the stream gives, `drop` them, or `stop`.
        order: for each class index of the data, the index that a model's labels give it.
        augment: makes the view that both models see.
        mixing: mixes each view with the one before it, the first with itself.
        epoch: sets the order, together with the seed.
        batch_size, least: of the batches that are made of it, and of the last one, which the next images fill up.
        repeats_after, teacher_outputs: None, since no view repeats: see `images.ImageSplit`.
    """

    repeats_after = teacher_outputs = None

    rows: datasets.IterableDataset
    image_column: str
    label_column: str | None
    length: int
    seed: int = 0
    on_corrupt: str = "skip"
    held_out: frozenset[bytes] = frozenset()
    on_leak: str = "warn"
    order: list[int] | None = None
    augment: Callable[[Tensor], Tensor] | None = None
    mixing: Mixing | None = None
    epoch: int = 0
    batch_size: int = 1
    least: int = 1

    def __len__(self) -> int:
        return self.length

    def augmented(self, augment: Callable[[Tensor], Tensor] | None, mixing: Mixing | None = None) -> ImageStream:
        """Return this stream in the views that `augment` and then `mixing` make."""
        return replace(self, augment=augment, mixing=mixing)

    def renumbered(self, new: list[int]) -> ImageStream:
        """Return this stream with label `new[i]` where it had label i."""
        return replace(self, order=[new[label] for label in self.order or range(len(new))])

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        share = len(range(first, self.length, step))
        rest = share % self.batch_size
        missing = max(0, min(self.least, self.batch_size) - rest) if rest else 0
        items = self._endless() if self.mixing is None else self._mixed(itertools.count(first, step))
        return itertools.islice(items, share + missing)

    def _mixed(self, numbers: Iterator[int]) -> Iterator[dict[str, Any]]:
        before = None
        for number, item in zip(numbers, self._endless(), strict=False):
            yield self.mixing.mixed(item, before or item, random_of(self.seed, number, self.epoch))
            before = item

    def _endless(self) -> Iterator[dict[str, Any]]:
        for turn in itertools.count(self.epoch):
            rows = self.rows.shuffle(self.seed, buffer_size=BUFFER)
            rows.set_epoch(turn)
            views = corrupt = leaked = 0
            for row in rows:
                picture = _fetched(row[self.image_column])
                try:
                    view = decode(picture)
                except Exception as error:  # a damaged file makes Pillow raise anything
                    if failure_of(error) is not None:
                        raise
                    corrupt += 1
                    self._tell(picture, error, first=corrupt == 1)
                    continue
                if self.held_out and hashlib.sha256(picture["bytes"]).digest() in self.held_out:
                    leaked += 1
                    self._tell_leak(picture, first=leaked == 1)
                    if self.on_leak == "drop":
                        continue
                views += 1
                yield {"view": self.augment(view) if self.augment else view, "label": self._label(row)}
            if not views:
                raise RunError("the stream of training images has none that can be decoded: see 'data.path'")

    def _label(self, row: dict[str, Any]) -> int:
        label = _class_index(row[self.label_column] if self.label_column else None)
        return self.order[label] if self.order and label != IGNORED_LABEL else label

    def _tell(self, picture: dict[str, Any] | None, error: Exception, first: bool) -> None:
        where = f"{(picture or {}).get('path') or 'a picture'} ({error})"
        if self.on_corrupt == "stop":
            raise RunError(f"the stream of training images has a corrupt one: {where}; 'data.on_corrupt: skip'")
        if first:
            logger.warning("the stream of training images has corrupt ones, which are skipped; the first is %s", where)

    def _tell_leak(self, picture: dict[str, Any], first: bool) -> None:
        where = f"held-out images are in the stream of training images, too, as {picture['path'] or 'a picture'}"
        if self.on_leak == "stop":
            raise RunError(f"{where}: divide the data anew, or set 'data.on_leak: drop'")
        if first:
            logger.warning("%s%s", where, ", and are dropped" if self.on_leak == "drop" else "")


def open_stream(
    raw: datasets.IterableDatasetDict,
    names: dict[str, str],
    section: DataSection,
    image_column: str,
    label_column: str | None,
    seed: int,
) -> tuple[ImageStream, Parts]:
    """Open the training images as a stream, and keep a sample of them and the held-out images in memory.

    Raises:
        UsageError: the number of training images is not known, or there are fewer files than workers.
    """
    raw = raw.cast_column(image_column, datasets.Image(decode=False))
    train = raw[names["train"]]
    if section.workers > train.n_shards:
        raise UsageError(
            f"'data.workers' is {section.workers}, but the training images are in {train.n_shards} files, each of "
            "which one worker reads: lower it"
        )
    length = section.train_images or _known_length(train, names["train"])
    stream = ImageStream(train, image_column, label_column, length, seed, section.on_corrupt)
    kept = {role: (raw[names[role]], MOST_HELD_OUT) for role in ("validation", "test")}
    kept["train"] = train.shuffle(seed, buffer_size=BUFFER), SAMPLED_LABELS
    parts, room = Parts({}, {"train": f"stream of split {names['train']}"}, {}), Room(section.cache_mb * 2**20)
    for role, (rows, most) in kept.items():
        found = datasets.Dataset.from_list(
            [row | {image_column: _fetched(row[image_column])} for row in rows.take(most)], features=rows.features
        )
        good, decoded = read_pictures(found, image_column, section.on_corrupt, f"split '{role}'", room)
        held = found.select(np.flatnonzero(good))
        labels = [_class_index(label) for label in (held[label_column] if label_column else [None] * len(held))]
        parts.images[role] = ImageSplit(held.select_columns(image_column), image_column, labels, decoded)
        parts.corrupt[role] = len(found) - len(held)
        if role != "train":
            first = f"the first {MOST_HELD_OUT} images of " if len(found) == MOST_HELD_OUT else ""
            parts.origin[role] = f"{first}split {names[role]}"
    return stream, parts


def _fetched(picture: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a picture with its bytes; as it is, to be counted as corrupt, where there is nothing to read.

    A connection that breaks ends the stream, or the next images would be others.
    """
    try:
        return with_bytes(picture)
    except (FileNotFoundError, PermissionError, TypeError, AttributeError):
        return picture


def _class_index(label: int | None) -> int:
    return IGNORED_LABEL if label is None or label < 0 else label


def split_names(raw: datasets.IterableDatasetDict, section: DataSection) -> dict[str, str]:
    """Return the name of the split of each role, or raise UsageError where one is missing."""
    names = {}
    for role, usual in USUAL_NAMES.items():
        name = getattr(section.splits, role) or next((name for name in usual if name in raw), None)
        if name is None:
            raise UsageError(
                f"a stream is not divided, and the data set has no split for {role}: name one of {', '.join(raw)} in "
                f"'data.splits.{role}'"
            )
        if name not in raw:
            near = did_you_mean(name, raw)
            raise UsageError(f"'data.splits.{role}' names the split '{name}', which is not there{near}")
        names[role] = name
    return names


def _known_length(rows: datasets.IterableDataset, name: str) -> int:
    counts = rows.info.splits or {}
    if name not in counts or not counts[name].num_examples:
        raise UsageError(
            "the data set does not say how many images it has: say in 'data.train_images' how many make an epoch"
        )
    return counts[name].num_examples
