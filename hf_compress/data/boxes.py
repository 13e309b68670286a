"""Objects in boxes: what a picture carries for a detector, and the columns of a data set that hold them."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import torch
from PIL import ExifTags, Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from hf_compress.data.addresses import with_bytes
from hf_compress.data.annotations import Annotation
from hf_compress.data.images import IGNORED_LABEL
from hf_compress.data.label_columns import TEXT, refuse_many
from hf_compress.data.sources import features_of
from hf_compress.ground.errors import UsageError
from hf_compress.sections.data import DataSection

PLACES = ("bbox", "boxes")
CATEGORIES = ("category", "category_id", "label", "categories", "labels", "class")
CROWDS = ("iscrowd", "is_crowd")
SIDEWAYS = (5, 6, 7, 8)  # orientations of EXIF that exchange height and width
PADDING = -100.0  # as `transformers` pads the targets of several batches
UNKNOWN = -1.0  # in place of the class in the one row of a picture of which nothing is known
UNSEEN = (float("nan"),) * 4
OUTSIDE = 2  # pixels by which rounding may carry a box out of its picture
logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Boxes(Annotation):
    """The objects of one picture.

    Attributes:
        places: float32 (objects, 4), left, top, width and height of each box.
        kinds: int64 (objects,), the class of each.
        crowd: bool (objects,), whether a box is around many objects, as COCO has it: nothing learns from these, and
            what is found there counts neither as right nor as wrong.
        size: (height, width) of the picture, in the unit of the places.
    """

    places: np.ndarray
    kinds: np.ndarray
    crowd: np.ndarray
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def classes(self) -> tuple[int, ...]:
        return tuple(np.unique(self.kinds).tolist())

    def parts(self) -> dict[str, Tensor]:
        """Return `boxes` (objects, 4) as corners that move with the picture, `kinds` and `crowd` (objects,)."""
        places = torch.from_numpy(self.places)
        corners = torch.cat([places[:, :2], places[:, :2] + places[:, 2:]], dim=1)
        boxes = tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=self.size)
        return {"boxes": boxes, "kinds": torch.from_numpy(self.kinds), "crowd": torch.from_numpy(self.crowd)}

    def in_view(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cut boxes off at the edges of the view, and leave out those of which no pixel is left."""
        boxes = F.clamp_bounding_boxes(parts["boxes"])
        seen = (boxes[:, 2:] - boxes[:, :2] >= 1).all(dim=1).as_subclass(Tensor)
        return {
            "boxes": tv_tensors.wrap(boxes[seen], like=boxes),
            "kinds": parts["kinds"][seen],
            "crowd": parts["crowd"][seen],
        }

    def renumbered(self, new: Sequence[int]) -> Boxes:
        return replace(self, kinds=np.asarray(new, dtype=np.int64)[self.kinds])


def make_boxes(places: Any, kinds: Any, crowd: Any = None, size: tuple[int, int] = (1, 1)) -> Boxes:
    """Return boxes from lists, an empty one also standing for no objects; as shares of a picture without a size."""
    kinds = np.asarray(kinds, dtype=np.int64).reshape(-1)
    crowd = np.zeros(len(kinds), bool) if crowd is None else np.asarray(crowd, dtype=bool).reshape(-1)
    return Boxes(np.asarray(places, dtype=np.float32).reshape(-1, 4), kinds, crowd, size)


def object_rows(items: list[dict[str, Any]], processor: Any) -> Tensor:
    """Return the objects of a batch where an image processor puts them, by its own code.

    Args:
        items: of an `ImageSplit`.

    Returns:
        Float32 (batch, most objects, 6), at least one row a picture: class, whether it is a crowd, and centre x and y,
        width and height as shares of the model's input; rows of -100 are no objects. The first class of a picture
        without a label is -1.
    """
    views, annotations = [], []
    for item in items:
        view, label = item["view"], item["label"]
        parts = label.parts() if isinstance(label, Boxes) else {} if label == IGNORED_LABEL else label
        views.append(view)
        annotations.append({"image_id": 0, "annotations": _as_coco(parts, view.shape[-2:])})
    made = processor(images=views, annotations=annotations, return_tensors="pt")["labels"]
    rows = torch.full((len(made), max([1, *(len(each["boxes"]) for each in made)]), 6), PADDING)
    for row, each, item in zip(rows, made, items, strict=True):
        codes = each["class_labels"][:, None]
        row[: len(codes)] = torch.cat([codes // 2, codes % 2, each["boxes"]], dim=1)
        if isinstance(item["label"], int):
            row[0, 0] = UNKNOWN
    return rows


def _as_coco(parts: dict[str, Tensor], size: tuple[int, int]) -> list[dict[str, Any]]:
    """Return objects as processors take them; these leave out crowds, so the lowest bit of the class tells of it."""
    if not parts:
        return []
    height, width = parts["boxes"].canvas_size
    corners = parts["boxes"].as_subclass(Tensor) * torch.tensor([size[1] / width, size[0] / height] * 2)
    places = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
    codes = parts["kinds"] * 2 + parts["crowd"]
    return [
        {"bbox": place, "category_id": code, "area": place[2] * place[3], "iscrowd": 0}
        for place, code in zip(places.tolist(), codes.tolist(), strict=True)
    ]


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
    try:
        return _read_boxes(raw, column, image_column)
    except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
        raise UsageError(
            f"column '{column}' cannot be read: a picture needs as many categories, names or whole numbers from 0, as "
            f"boxes [x, y, width, height] ({error or type(error).__name__})"
        ) from None


def _read_boxes(
    raw: datasets.DatasetDict, column: str, image_column: str
) -> tuple[list[Boxes | int], list[str], bool]:
    place, category, crowd, kind = _parts(features_of(raw)[column])
    rows = {split: [_as_lists(row, place, category) for row in part[column]] for split, part in raw.items()}
    categories = [value for part in rows.values() for row in part if row for value in row[category]]
    if isinstance(kind, datasets.ClassLabel):
        names, named = list(kind.names), True
    elif kind.dtype in TEXT:
        names, named = sorted({text for text in categories if text}), True
    else:
        most = max((_whole(number) for number in categories if number is not None), default=-1)
        refuse_many(most + 1, column)
        names, named = [str(number) for number in range(most + 1)], False
    refuse_many(len(names), column)
    found: list[Boxes | int] = []
    lost = 0
    sizes = iter(_sizes(raw, image_column))
    for split, part in raw.items():
        numbers = _numbers(_parts(part.features[column])[3], names, column, split)
        for row, size in zip(rows[split], sizes, strict=False):
            if row is None:
                found.append(IGNORED_LABEL)
                continue
            boxes, without = _boxes(row[place], [numbers(value) for value in row[category]], row.get(crowd), size)
            found.append(boxes)
            lost += without
    if lost:
        logger.warning("column '%s': left out %d objects without extent or category", column, lost)
    _refuse_other_units(found, column)
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


def _as_lists(row: Any, place: str, category: str) -> dict[str, list[Any]] | None:
    """Return lists of what the objects of a picture have; None where the boxes or their categories are not known."""
    if isinstance(row, list):
        names = row[0] if row else (place, category)
        return {name: [item[name] for item in row] for name in names}
    return None if row is None or row[place] is None or row[category] is None else row


def _whole(number: Any) -> int:
    if int(number) != number:
        raise ValueError(f"category {number}")
    return int(number)


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
    return lambda value: -1 if value is None else _whole(value)


def _boxes(places: list[Any], kinds: list[int], crowd: list[Any] | None, size: tuple[int, int]) -> tuple[Boxes, int]:
    """Return the objects that have an extent and a category, and how many have not."""
    places = [UNSEEN if place is None else place for place in places]
    if (
        any(len(place) != 4 for place in places)
        or len({len(places), len(kinds), len(kinds if crowd is None else crowd)}) > 1
    ):
        raise ValueError(f"{len(places)} boxes and {len(kinds)} categories, the first box: {places[:1]}")
    whole = make_boxes(places, kinds, crowd, size)
    good = np.isfinite(whole.places).all(axis=1) & (whole.places[:, 2:] > 0).all(axis=1) & (whole.kinds >= 0)
    return Boxes(whole.places[good], whole.kinds[good], whole.crowd[good], size), int((~good).sum())


def _sizes(raw: datasets.DatasetDict, image_column: str) -> list[tuple[int, int]]:
    """Return (height, width) of all pictures as they are shown; (1, 1) of one that cannot be opened."""
    undecoded = raw.select_columns(image_column).cast_column(image_column, datasets.Image(decode=False))
    with ThreadPoolExecutor() as pool:
        return [size for part in undecoded.values() for size in pool.map(_size, part[image_column])]


def _size(picture: dict[str, Any]) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(with_bytes(picture)["bytes"])) as image:
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) in SIDEWAYS
            return image.size if turned else image.size[::-1]
    except Exception:  # a damaged file makes Pillow raise anything; reading the pictures says more of it
        return 1, 1


def _refuse_other_units(found: list[Boxes | int], column: str) -> None:
    """Raise UsageError where boxes are shares of their pictures, or many leave these, as corners do."""
    known = [boxes for boxes in found if isinstance(boxes, Boxes) and boxes.size != (1, 1) and len(boxes)]
    if known and max(boxes.places.max() for boxes in known) <= 1:
        raise UsageError(
            f"column '{column}': no box is larger than a pixel; boxes are [x, y, width, height] in pixels of the "
            "stored picture, and these may be shares of it: multiply them by its width and height"
        )
    ends = [boxes.places[:, :2] + boxes.places[:, 2:] - np.array(boxes.size[::-1]) for boxes in known]
    outside = sum(int((end > OUTSIDE).any(axis=1).sum()) for end in ends)
    total = sum(map(len, ends))
    if outside > total / 10:
        raise UsageError(
            f"column '{column}': {outside} of {total} boxes end outside their pictures, read as [x, y, width, height] "
            "in pixels of the stored picture: write them so (they may be corners [left, top, right, bottom])"
        )
