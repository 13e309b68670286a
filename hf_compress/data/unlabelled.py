"""Training images without labels, from which a teacher's student can learn."""

from __future__ import annotations

from dataclasses import dataclass, field

import datasets
import numpy as np

from hf_compress.data.decoded import Room
from hf_compress.data.folders import LeftOut
from hf_compress.data.images import IGNORED_LABEL, ImageSplit
from hf_compress.data.sources import image_column_of, load_raw, read_pictures
from hf_compress.data.splits import named_slice, sizes_of, stratified
from hf_compress.ground.errors import UsageError
from hf_compress.sections.data import DataSection


@dataclass
class Unlabelled:
    """Images without labels.

    Attributes:
        images: None where there are none.
        origins: where they come from, in words.
        commits: of the data sets of the recipe, None for what is not from the Hub.
        corrupt: number of images that were skipped.
        left_out: files of the data sets that are not used.
    """

    images: ImageSplit | None
    origins: list[str]
    commits: list[str | None] = field(default_factory=list)
    corrupt: int = 0
    left_out: list[LeftOut] = field(default_factory=list)


def set_aside(train: ImageSplit, fraction: float, seed: int) -> tuple[ImageSplit, ImageSplit | None]:
    """Divide the training images into those with a label and the others.

    Args:
        fraction: this part of the labelled images keeps the labels, stratified and seeded; those of the others are
            forgotten.

    Returns:
        Images with and without labels. Where no image has a label, all of them are the training images.

    Raises:
        UsageError: a fraction of no labels is asked for.
        RunError: a class has too few images to be divided.
    """
    labels = np.asarray(train.labels)
    known = np.flatnonzero(labels != IGNORED_LABEL)
    if fraction < 1:
        if not len(known):
            raise UsageError("'data.labelled' keeps a fraction of the labels, but the data has none: leave it out")
        groups = np.unique(train.decoded.keys[known], return_inverse=True)[1]
        _, kept = stratified(len(known), labels[known], round(fraction * len(known)), seed, groups)
        known = known[kept]
    others = np.setdiff1d(np.arange(len(labels)), known)
    if not len(known) or not len(others):
        return train, None
    forgotten = train.subset(others)
    forgotten.labels = [IGNORED_LABEL] * len(others)
    return train.subset(known), forgotten


def load_unlabelled(section: DataSection, room: Room) -> Unlabelled:
    """Load the data sets of `data.unlabelled`; no label is looked at.

    Args:
        room: memory for decoded pictures.

    Raises:
        UsageError: a data set, its image column or its split does not exist.
        RunError: an image is corrupt and the recipe says stop.
    """
    found = Unlabelled(None, [])
    for number, source in enumerate(section.unlabelled):
        key = f"data.unlabelled.{number}"
        loaded = load_raw(source, key)
        raw = loaded.rows
        column = image_column_of(raw, source, key)
        raw = raw.select_columns(column).cast_column(column, datasets.Image(decode=False))
        rows = datasets.concatenate_datasets(list(raw.values()))
        if source.split:
            rows = rows.select(named_slice(sizes_of(raw), source.split, f"{key}.split"))
        good, decoded = read_pictures(rows, column, section.on_corrupt, f"'{key}'", room)
        whole = rows.select(np.flatnonzero(good))
        images = ImageSplit(whole, column, [IGNORED_LABEL] * len(whole), decoded)
        found.images = images if found.images is None else found.images.followed_by(images)
        found.origins.append(source.path)
        found.commits.append(loaded.commit)
        found.corrupt += len(rows) - len(whole)
        found.left_out += loaded.left_out
    return found
