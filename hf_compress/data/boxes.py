"""Objects in boxes: what a picture carries for a detector, and the columns of a data set that hold them."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
from PIL import Image

from hf_compress.data.addresses import with_bytes
from hf_compress.data.images import IGNORED_LABEL
from hf_compress.data.label_columns import TEXT, refuse_many
from hf_compress.data.sources import features_of
from hf_compress.ground.errors import UsageError
from hf_compress.sections.data import DataSection

PLACES = ("bbox", "boxes")
CATEGORIES = ("category", "category_id", "label")
CROWDS = ("iscrowd", "is_crowd")
LOOKED_AT = 64  # pictures whose size tells how boxes are written
OUTSIDE = 2  # pixels by which rounding may carry a box out of its picture
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Boxes:
    """The objects of one picture.

    Attributes:
        places: float32 (objects, 4), left, top, width and height of each box.
        classes: int64 (objects,).
        crowd: bool (objects,), whether a box is around many objects, as COCO has it: nothing learns from these, and
            what is found there counts neither as right nor as wrong.
        relative: whether places are shares of the picture's width and height, not pixels.
    """

    places: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    relative: bool = False

    def __len__(self) -> int:
        return len(self.classes)

    def renumbered(self, new: list[int]) -> Boxes:
        """Return the same objects, class i being `new[i]`."""
        return replace(self, classes=np.asarray(new, dtype=np.int64)[self.classes])


def make_boxes(places: Any, classes: Any, crowd: Any = None, relative: bool = False) -> Boxes:
    """Return boxes from lists, an empty one also standing for no objects."""
    classes = np.asarray(classes, dtype=np.int64).reshape(-1)
    crowd = np.zeros(len(classes), bool) if crowd is None else np.asarray(crowd, dtype=bool).reshape(-1)
    return Boxes(np.asarray(places, dtype=np.float32).reshape(-1, 4), classes, crowd, relative)


def box_column_of(raw: datasets.DatasetDict, section: DataSection) -> str | None:
    """Return the column of objects that a section names in `label_column`, or else the only one; None: there is none.

    Such a column holds boxes and categories of the objects of each picture, as a list of objects or a list of each.

    Raises:
        UsageError: the column that is named holds no objects, or there are several.
    """
    features = features_of(raw)
    columns = [name for name, feature in features.items() if _parts(feature) is not None]
    if wanted := section.label_column:
        if wanted not in columns:
            held = f"holds {features[wanted]}" if wanted in features else f"is none of {', '.join(features)}"
            raise UsageError(
                f"'data.label_column': column '{wanted}' {held}, but has to hold the objects of each picture: lists "
                "'bbox' [x, y, width, height] and 'category'"
            )
        return wanted
    if len(columns) > 1:
        raise UsageError(f"the data set has objects in {', '.join(columns)}: name one in 'data.label_column'")
    return columns[0] if columns else None


def read_boxes(raw: datasets.DatasetDict, column: str, image_column: str) -> tuple[list[Boxes | int], list[str], bool]:
    """Return the objects of all pictures of all splits, one after the other.

    Categories are class names (a `ClassLabel`), texts, or whole numbers from 0 on. Boxes are [x, y, width, height] in
    pixels, x and y of the upper left corner. Objects without extent or category are left out, with a warning.

    Returns:
        Objects, or -100 for a picture of which nothing is known; the class names; and whether these are names or mere
        numbers.

    Raises:
        UsageError: boxes are written in another way, or classes differ between splits.
    """
    place, category, crowd, kind = _parts(features_of(raw)[column])
    rows = {split: list(map(_as_lists, part[column])) for split, part in raw.items()}
    every = [row for part in rows.values() for row in part if row is not None]
    if isinstance(kind, datasets.ClassLabel):
        names, named = list(kind.names), True
    elif kind.dtype in TEXT:
        names, named = sorted({text for row in every for text in row[category] if text}), True
    else:
        most = max((number for row in every for number in row[category] if number is not None), default=-1)
        refuse_many(most + 1, column)
        names, named = [str(number) for number in range(most + 1)], False
    refuse_many(len(names), column)
    found: list[Boxes | int] = []
    lost = 0
    for split, part in raw.items():
        numbers = _numbers(_parts(part.features[column])[3], names, column, split)
        for row in rows[split]:
            if row is None:
                found.append(IGNORED_LABEL)
                continue
            boxes, without = _boxes(row[place], [numbers(value) for value in row[category]], row.get(crowd))
            found.append(boxes)
            lost += without
    if lost:
        logger.warning("column '%s': left out %d objects without extent or category", column, lost)
    _refuse_corners(raw, found, column, image_column)
    return found, names, named


def _parts(feature: Any) -> tuple[str, str, str, Any] | None:
    """Return the names of the lists of boxes, categories and crowds, and the kind of a category; None: no objects."""
    inner = feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else feature
    if not isinstance(inner, dict):
        return None
    place = next((name for name in PLACES if name in inner), None)
    category = next((name for name in CATEGORIES if name in inner), None)
    if place is None or category is None:
        return None
    kind = inner[category]
    kind = kind.feature if isinstance(kind, datasets.List | datasets.LargeList) else kind
    return place, category, next((name for name in CROWDS if name in inner), CROWDS[0]), kind


def _as_lists(row: Any) -> dict[str, list[Any]] | None:
    if isinstance(row, list):
        names = row[0] if row else (*PLACES, *CATEGORIES)
        return {name: [item[name] for item in row] for name in names}
    return row if row is None or all(values is not None for values in row.values()) else None


def _numbers(kind: Any, names: list[str], column: str, split: str):
    """Return what maps a category, as a split writes it, to the index of its class; -1: it has none."""
    index = {name: number for number, name in enumerate(names)}
    if isinstance(kind, datasets.ClassLabel):
        if unknown := [name for name in kind.names if name not in index]:
            raise UsageError(
                f"split '{split}' names the class '{unknown[0]}' in column '{column}', which is none of the first "
                "split: give both one list"
            )
        own = [index[name] for name in kind.names]
        return lambda value: -1 if value is None or value < 0 else own[value]
    if kind.dtype in TEXT:
        return lambda value: index.get(value, -1)
    return lambda value: -1 if value is None else int(value)


def _boxes(places: list[Any], classes: list[int], crowd: list[Any] | None) -> tuple[Boxes, int]:
    """Return the objects that have an extent and a category, and how many have not."""
    whole = make_boxes(places, classes, crowd)
    good = np.isfinite(whole.places).all(axis=1) & (whole.places[:, 2:] > 0).all(axis=1) & (whole.classes >= 0)
    return Boxes(whole.places[good], whole.classes[good], whole.crowd[good]), int((~good).sum())


def _refuse_corners(raw: datasets.DatasetDict, found: list[Boxes | int], column: str, image_column: str) -> None:
    """Raise UsageError where many boxes leave their pictures: they are corners, or of pictures of another size."""
    rows = datasets.concatenate_datasets(
        [
            part.select_columns(image_column).cast_column(image_column, datasets.Image(decode=False))
            for part in raw.values()
        ]
    )
    with_objects = [index for index, boxes in enumerate(found) if isinstance(boxes, Boxes) and len(boxes)]
    step = max(1, len(with_objects) // LOOKED_AT)
    outside = total = 0
    for index in with_objects[::step]:
        try:
            size = _size(rows[index][image_column])
        except Exception:  # a damaged file, of which reading the pictures tells more
            continue
        ends = found[index].places[:, :2] + found[index].places[:, 2:]
        outside += int((ends > np.array(size) + OUTSIDE).any(axis=1).sum())
        total += len(ends)
    if outside > total / 10:
        raise UsageError(
            f"column '{column}': {outside} of {total} boxes end outside their pictures, read as [x, y, width, height] "
            "in pixels of the stored picture: write them so (they may be corners [left, top, right, bottom])"
        )


def _size(picture: dict[str, Any]) -> tuple[int, int]:
    with Image.open(io.BytesIO(with_bytes(picture)["bytes"])) as image:
        return image.size
