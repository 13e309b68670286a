"""The images of every role: read once, and divided so that no picture is on two sides."""

import itertools
import logging
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import numpy as np

from hf_compress.data.annotations import FoundLabels, as_numbers, classes_of
from hf_compress.data.decoded import Room
from hf_compress.data.folders import LeftOut
from hf_compress.data.images import IGNORED_LABEL, ImageSplit
from hf_compress.data.leaks import conflicting_labels, same_pictures, settle_leaks
from hf_compress.data.sources import image_column_of, load_raw, read_pictures, undecoded
from hf_compress.data.splits import Chosen, divide, named_slice, sizes_of, stratified
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.sections.data import DataSection

logger = logging.getLogger(__name__)


@dataclass
class Parts:
    """Images by role: `train`, `validation`, `test`, and perhaps `unlabelled`.

    Attributes:
        origin: of each, in words.
        corrupt: how many were skipped; None where nobody counts.
    """

    images: dict[str, ImageSplit]
    origin: dict[str, str]
    corrupt: dict[str, int | None]

    @property
    def found(self) -> int:
        return sum(map(len, self.images.values())) + sum(filter(None, self.corrupt.values()))

    def read_unlabelled(self, section: DataSection, room: Room) -> tuple[list[str | None], list[LeftOut]]:
        """Add the data sets of `data.unlabelled`, from which a teacher's student can learn; no label is looked at.

        Returns:
            The commit of each, None for what is not from the Hub, and their files that are not used.
        """
        commits, left_out = [], []
        for number, source in enumerate(section.unlabelled):
            key = f"data.unlabelled.{number}"
            loaded = load_raw(source, key)
            column = image_column_of(loaded.rows, source, key)
            rows = undecoded(loaded.rows, column)
            if source.split:
                rows = rows.select(named_slice(sizes_of(loaded.rows), source.split, f"{key}.split"))
            good, decoded = read_pictures(rows, column, section.on_corrupt, f"'{key}'", room)
            whole = rows.select(np.flatnonzero(good))
            images = ImageSplit(whole, column, [IGNORED_LABEL] * len(whole), decoded)
            before = self.images.get("unlabelled")
            self.images["unlabelled"] = images if before is None else before.followed_by(images)
            self.corrupt["unlabelled"] = self.corrupt.get("unlabelled", 0) + len(rows) - len(whole)
            commits.append(loaded.commit)
            left_out += loaded.left_out
        if section.unlabelled:
            self.origin["unlabelled"] = ", ".join(source.path for source in section.unlabelled)
        return commits, left_out

    def set_aside(self, fraction: float, seed: int) -> None:
        """Put the training images without label before the unlabelled ones; see the function `set_aside`."""
        if fraction < 1:
            self.origin["train"] = f"{fraction:.0%} of {self.origin['train']}"
        self.images["train"], forgotten = set_aside(self.images["train"], fraction, seed)
        if forgotten is None:
            return
        others, origin = self.images.get("unlabelled"), self.origin.get("unlabelled")
        self.images["unlabelled"] = forgotten if others is None else forgotten.followed_by(others)
        self.origin["unlabelled"] = ", ".join(filter(None, ["training images without label", origin]))
        self.corrupt.setdefault("unlabelled", 0)

    def facts(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """Return what the report says of each role; `names` are those of the classes."""
        found = {}
        for role, images in self.images.items():
            found[role] = {
                "images": len(images),
                "from": self.origin[role],
                "corrupt_images_skipped": self.corrupt[role],
                "unlabelled_images": images.labels.count(IGNORED_LABEL),
                "images_by_class": _images_by_class(images, names),
            }
        return found


def read_and_divide(
    raw: datasets.DatasetDict,
    image_column: str,
    found: FoundLabels,
    chosen: Chosen,
    section: DataSection,
    seed: int,
    room: Room,
) -> Parts:
    """Read the pictures of a data set, each once, and give every role its own.

    Args:
        found: what all images show.

    Raises:
        RunError: there are too few images to divide, or one is corrupt and the recipe says stop.
    """
    rows = undecoded(raw, image_column)
    used = chosen.used
    good, decoded = read_pictures(rows.select(used), image_column, section.on_corrupt, section.path, room)
    groups = np.arange(len(rows))
    groups[used] = used[same_pictures(decoded.keys, good)]
    divided = divide(chosen, found.labels, groups, seed)
    kept = used[good]
    whole = ImageSplit(rows.select(kept), image_column, _labels(found, kept), decoded)
    readable = {role: indices[np.isin(indices, kept)] for role, indices in divided.items()}
    images = {role: whole.subset(np.searchsorted(kept, indices)) for role, indices in readable.items()}
    corrupt = {role: len(divided[role]) - len(part) for role, part in images.items()}
    return Parts(images, dict(chosen.origin), corrupt)


def _labels(found: FoundLabels, kept: np.ndarray) -> list[Any]:
    """Return the labels of an `ImageSplit` of the images with these indices."""
    if found.labels is None:
        return [IGNORED_LABEL] * len(kept)
    known = np.where(found.labels < 0, IGNORED_LABEL, found.labels)[kept].tolist()
    if found.annotations is None:
        return known
    own = [found.annotations[index] for index in kept]
    return [label if label == IGNORED_LABEL else annotation for label, annotation in zip(known, own, strict=True)]


def set_aside(train: ImageSplit, fraction: float, seed: int) -> tuple[ImageSplit, ImageSplit | None]:
    """Divide the training images into those with a label and the others, None where no image has a label, or each.

    This fraction of the labelled images keeps the labels, stratified and seeded; those of the others are forgotten.

    Raises:
        UsageError: a fraction of no labels is asked for.
        RunError: a class has too few images to be divided.
    """
    labels = as_numbers(train.labels)
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
    return train.subset(known), train.subset(others).with_labels([IGNORED_LABEL] * len(others))


def unused_splits(sizes: dict[str, int], chosen: Chosen, section: DataSection) -> list[LeftOut]:
    """Return the splits of which no image is used, not even without its label."""
    used = chosen.used
    elsewhere = {
        (source.split or "").partition("[")[0] for source in section.unlabelled if source.path == section.path
    }
    found, start = [], 0
    for split, size in sizes.items():
        if size and split not in elsewhere and not ((used >= start) & (used < start + size)).any():
            why = "has no labels" if split in chosen.unlabelled else "is neither train, validation nor test"
            found.append(LeftOut(f"split '{split}' {why}", size, split))
        start += size
    return found


def _images_by_class(images: ImageSplit, names: list[str]) -> dict[str, int]:
    """Count the images that show each class, in the order of the classes, without those that none shows."""
    counts = sorted(Counter(itertools.chain.from_iterable(map(classes_of, images.labels))).items())
    return {names[label]: n for label, n in counts if label != IGNORED_LABEL}


def _tell_absent_classes(parts: Parts, names: list[str]) -> None:
    """Warn of held-out images that show some classes alone, as the end of a split that is sorted by class does."""
    for role in ("validation", "test"):
        shown = _images_by_class(parts.images[role], names) if role in parts.images else {}
        absent = [name for name in names if name not in shown]
        if shown and absent:
            advice = ": without 'data.splits' every class gets its share" if "[" in parts.origin[role] else ""
            logger.warning(
                "'%s' (%s) has no image of %d of %d classes, such as %s, and tells nothing of them%s",
                role, parts.origin[role], len(absent), len(names), absent[0], advice,
            )  # fmt: skip


def settle(parts: Parts, section: DataSection, names: list[str], left_out: list[LeftOut]) -> dict[str, Any]:
    """Look for leaks, for conflicting labels and for all that is not used; return the facts for the report.

    Raises:
        RunError: a role has no images, or there are leaks and the recipe says stop.
    """
    for role, images in parts.images.items():
        if not len(images):
            raise RunError(f"split '{role}' of {section.path} has no images")
    for entry in left_out:
        logger.warning("left out: %s (%d, such as %s)", entry.reason, entry.count, entry.example)
    found = parts.found
    parts.images, leaks = settle_leaks(parts.images, section.on_leak, section.path)
    assert parts.found + sum(leak["dropped"] for leak in leaks) == found
    _tell_absent_classes(parts, names)
    return {
        "left_out": [asdict(entry) for entry in left_out],
        "leaks": leaks,
        "conflicting_labels": conflicting_labels(parts.images, names, section.path),
    }
