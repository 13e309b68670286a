"""Pictures that are in two splits, or have two labels: found by the digests of their stored bytes."""

import logging
import os
from typing import Any

import numpy as np

from hf_compress.data.annotations import as_numbers
from hf_compress.data.images import IGNORED_LABEL, ImageSplit
from hf_compress.ground.errors import RunError
from hf_compress.ground.files import user_path

PAIRS = (
    ("validation", "test"),
    ("train", "test"),
    ("unlabelled", "test"),
    ("train", "validation"),
    ("unlabelled", "validation"),
)
logger = logging.getLogger(__name__)


def settle_leaks(
    splits: dict[str, ImageSplit], on_leak: str, path: str
) -> tuple[dict[str, ImageSplit], list[dict[str, Any]]]:
    """Find the pictures of validation and test that are in another split, too.

    Args:
        on_leak: `warn`, `stop`, or `drop`: take them out of the other split, so that all test images stay.

    Returns:
        The splits, and the facts of every two that share pictures: `splits`, `images` (of the second, which are in the
        first, too), `dropped` (of the first), and `example` (a path within the data set).

    Raises:
        RunError: there are some, and the recipe says stop, or nothing is left of a split without them.
    """
    splits, leaks = dict(splits), []
    for first, second in PAIRS:
        if first not in splits or second not in splits:
            continue
        keys, held_out = splits[first].decoded.keys, splits[second].decoded.keys
        shared, leaked = np.isin(keys, held_out), np.isin(held_out, keys)
        if not shared.any():
            continue
        example = picture_path(splits[first], int(shared.argmax()), path)
        what = f"{leaked.sum()} of {len(leaked)} images of '{second}' are in '{first}', too, as {example}"
        if on_leak == "stop":
            raise RunError(f"{what}: divide the data anew, or set 'data.on_leak: drop'")
        if on_leak == "warn":
            logger.warning("%s: figures may flatter; 'data.on_leak: drop' takes them out of '%s'", what, first)
        else:
            logger.warning("%s: %d images of '%s' are dropped", what, shared.sum(), first)
            splits[first] = splits[first].subset(np.flatnonzero(~shared))
            if shared.all():
                raise RunError(f"{what}: nothing is left of '{first}' without them; divide the data anew")
        dropped = int(shared.sum()) if on_leak == "drop" else 0
        leaks.append({"splits": [first, second], "images": int(leaked.sum()), "dropped": dropped, "example": example})
    return splits, leaks


def conflicting_labels(splits: dict[str, ImageSplit], names: list[str], path: str) -> list[dict[str, Any]]:
    """Find pictures that are stored more than once, with different classes; annotations are not compared.

    Returns:
        By split that has some: `split`, `images`, `example` (a path within the data set), and its `labels`.
    """
    labels = np.concatenate([as_numbers(images.labels) for images in splits.values()])
    _, picture = np.unique(np.concatenate([s.decoded.keys for s in splits.values()]), return_inverse=True)
    known = labels != IGNORED_LABEL
    lowest, highest = np.full((2, len(labels)), -1)
    lowest[:] = len(names)
    np.minimum.at(lowest, picture[known], labels[known])
    np.maximum.at(highest, picture[known], labels[known])
    wrong = known & (lowest < highest)[picture]
    conflicts, start = [], 0
    for role, images in splits.items():
        (found,) = np.nonzero(wrong[start : start + len(images)])
        if len(found):
            example = picture_path(images, int(found[0]), path)
            given = sorted({names[index] for index in labels[known & (picture == picture[start + found[0]])]})
            logger.warning(
                "%d images of '%s' are stored with different labels, as %s: %s",
                len(found), role, example, ", ".join(given),
            )  # fmt: skip
            conflicts.append({"split": role, "images": len(found), "example": example, "labels": given})
        start += len(images)
    return conflicts


def same_pictures(keys: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Return a number for each image, the same for those of the same stored bytes.

    `good` says which could be decoded, and `keys` are of these; each other one is alone.
    """
    groups = np.arange(len(good))
    _, first, picture = np.unique(keys, return_index=True, return_inverse=True)
    groups[good] = np.flatnonzero(good)[first][picture]
    return groups


def picture_path(images: ImageSplit, index: int, path: str) -> str:
    """Return where a picture lies within its data set, or which of its split it is."""
    stored = images.pictures[index][images.image_column]["path"]
    if not stored:
        return f"image {index}"
    folder = str(user_path(path).resolve())
    resolved = os.path.realpath(stored) if os.path.isabs(stored) else stored
    return os.path.relpath(resolved, folder) if resolved.startswith(folder + os.sep) else os.path.basename(stored)
