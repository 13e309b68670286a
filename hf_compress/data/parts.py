"""The images of every role: read once, and divided so that no picture is on two sides."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import datasets
import numpy as np

from hf_compress.data.decoded import Room
from hf_compress.data.folders import LeftOut
from hf_compress.data.images import IGNORED_LABEL, ImageSplit
from hf_compress.data.leaks import conflicting_labels, same_pictures, settle_leaks
from hf_compress.data.sources import read_pictures
from hf_compress.data.splits import Chosen, divide
from hf_compress.data.unlabelled import Unlabelled, set_aside
from hf_compress.ground.errors import RunError
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

    def join(self, unlabelled: Unlabelled) -> None:
        """Add the data sets of `data.unlabelled`."""
        if unlabelled.images is not None:
            self.images["unlabelled"], self.corrupt["unlabelled"] = unlabelled.images, unlabelled.corrupt
            self.origin["unlabelled"] = ", ".join(unlabelled.origins)

    def set_aside(self, fraction: float, seed: int) -> None:
        """Put the training images without label before the unlabelled ones; see `unlabelled.set_aside`."""
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
        return {
            role: facts_of(images, self.origin[role], self.corrupt[role], names)
            for role, images in self.images.items()
        }


def read_and_divide(
    raw: datasets.DatasetDict,
    image_column: str,
    labels: np.ndarray | None,
    chosen: Chosen,
    section: DataSection,
    seed: int,
    room: Room,
) -> Parts:
    """Read the pictures of a data set, each once, and give every role its own.

    Args:
        labels: class indices of all images, negative where there is none; None where no image has one.

    Raises:
        RunError: there are too few images to divide, or one is corrupt and the recipe says stop.
    """
    raw = raw.select_columns(image_column).cast_column(image_column, datasets.Image(decode=False))
    rows = datasets.concatenate_datasets(list(raw.values()))
    used = chosen.used
    good, decoded = read_pictures(rows.select(used), image_column, section.on_corrupt, section.path, room)
    groups = np.arange(len(rows))
    groups[used] = used[same_pictures(decoded.keys, good)]
    divided = divide(chosen, labels, groups, seed)
    kept = used[good]
    known = np.full(len(rows), IGNORED_LABEL) if labels is None else np.where(labels < 0, IGNORED_LABEL, labels)
    whole = ImageSplit(rows.select(kept), image_column, known[kept].tolist(), decoded)
    readable = {role: indices[np.isin(indices, kept)] for role, indices in divided.items()}
    images = {role: whole.subset(np.searchsorted(kept, indices)) for role, indices in readable.items()}
    corrupt = {role: len(divided[role]) - len(part) for role, part in images.items()}
    return Parts(images, dict(chosen.origin), corrupt)


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


def settled(
    parts: Parts, section: DataSection, names: list[str], left_out: list[LeftOut]
) -> tuple[Parts, dict[str, Any]]:
    """Look for leaks and for conflicting labels, and tell of all that is not used.

    Args:
        names: of the classes.
        left_out: of the files and splits.

    Returns:
        The images that stay, and the facts for the report.

    Raises:
        RunError: a role has no images, or there are leaks and the recipe says stop.
    """
    for role, images in parts.images.items():
        if not len(images):
            raise RunError(f"split '{role}' of {section.path} has no images")
    for entry in left_out:
        logger.warning("left out: %s (%d, such as %s)", entry.reason, entry.count, entry.example)
    images, leaks = settle_leaks(parts.images, section.on_leak, section.path)
    kept = Parts(images, parts.origin, parts.corrupt)
    assert kept.found + sum(leak["dropped"] for leak in leaks) == parts.found
    return kept, {
        "left_out": [asdict(entry) for entry in left_out],
        "leaks": leaks,
        "conflicting_labels": conflicting_labels(images, names, section.path),
    }


def facts_of(images: ImageSplit, origin: str, corrupt: int | None, names: list[str]) -> dict[str, Any]:
    """Return what the report says of the images of a role."""
    counts = sorted(Counter(images.labels).items())
    return {
        "images": len(images),
        "from": origin,
        "corrupt_images_skipped": corrupt,
        "unlabelled_images": images.labels.count(IGNORED_LABEL),
        "images_by_class": {names[label]: n for label, n in counts if label != IGNORED_LABEL},
    }
