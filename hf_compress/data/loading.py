"""From the `data` section of a recipe to three splits of images with aligned labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import datasets

from hf_compress.data.augmentation import build_augmentation
from hf_compress.data.decoded import Room
from hf_compress.data.images import IGNORED_LABEL, ImageSplit, input_size
from hf_compress.data.sources import (
    features_of,
    image_column_of,
    labels_of,
    load_raw,
    refuse_empty_class_folders,
    without_corrupt,
)
from hf_compress.data.splits import split
from hf_compress.data.streaming import ImageStream, open_stream
from hf_compress.data.unlabelled import load_unlabelled, set_aside
from hf_compress.errors import RunError, UsageError
from hf_compress.files import user_path
from hf_compress.labels import positions
from hf_compress.sections import DataSection

if TYPE_CHECKING:
    from transformers import BaseImageProcessor


@dataclass
class ImageData:
    """The images of a run.

    Attributes:
        train, validation, test: the splits.
        stream: the training images of a data set that is streamed; `train` holds a sample of them.
        unlabelled: further training images, of which no label is known; only a distillation learns from them.
        label_names: class names in the order of the labels; empty when the data has no labels.
        named: whether the names come from the data; plain numbers carry no name.
        facts: counts and origins for the report.
    """

    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    label_names: list[str]
    named: bool
    unlabelled: ImageSplit | None = None
    stream: ImageStream | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    workers: int = 0

    @property
    def splits(self) -> dict[str, ImageSplit]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

    @property
    def training(self) -> ImageSplit | ImageStream:
        """The images that a training with labels learns from."""
        return self.train if self.stream is None else self.stream

    @property
    def with_unlabelled(self) -> ImageSplit | ImageStream:
        """The training images, followed by those without labels."""
        return self.training if self.unlabelled is None else self.train.followed_by(self.unlabelled)

    @property
    def labelled(self) -> bool:
        return bool(self.label_names)

    def align_labels(self, names: list[str]) -> bool:
        """Renumber the labels into the order of `names` (a model's labels), matched by name.

        Returns:
            False, and nothing changed, when the two sets of names differ.
        """
        if not self.named:
            if len(names) != len(self.label_names):
                return False
            self.label_names = list(names)
            return True
        new = positions(self.label_names, names)
        if new is None:
            return False
        for images in self.splits.values():
            images.labels = [label if label == IGNORED_LABEL else new[label] for label in images.labels]
        if self.stream is not None:
            self.stream.order = [new[label] for label in self.stream.order or range(len(new))]
        self.label_names = list(names)
        return True

    def set_augmentation(self, name: str, *processors: BaseImageProcessor) -> None:
        """Augment the training images, in the largest size that one of the image processors makes."""
        heights, widths = zip(*map(input_size, processors), strict=True)
        self.training.augment = build_augmentation(name, (max(heights), max(widths)))


def load_data(section: DataSection, seed: int) -> ImageData:
    """Load, check and divide the images.

    Raises:
        UsageError: the data set, a column or a split does not exist.
        RunError: a class is empty, or an image is corrupt and the recipe says stop.
    """
    refuse_empty_class_folders(user_path(section.path))
    if section.streaming:
        return _load_stream(section, seed)
    source = load_raw(section, "data")
    raw = source.rows
    image_column = image_column_of(raw, section, "data")
    label_column = _label_column(raw, section)
    raw, names, named = _encode_labels(raw, label_column)
    raw = raw.cast_column(image_column, datasets.Image(decode=False))
    parts, origin = split(raw, section.splits, label_column, seed)
    images, corrupt, room = {}, {}, Room(section.cache_mb * 2**20)
    for role, found in parts.items():
        rows, decoded = without_corrupt(found, image_column, section.on_corrupt, f"split '{role}'", room)
        corrupt[role] = len(found) - len(rows)
        labels = labels_of(rows, label_column)
        images[role] = ImageSplit(rows.select_columns(image_column), image_column, labels, decoded)
        if not labels:
            raise RunError(f"split '{role}' of {section.path} has no images")
    if section.labelled < 1:
        origin["train"] = f"{section.labelled:.0%} of {origin['train']}"
    images["train"], forgotten = set_aside(images["train"], section.labelled, seed)
    images["train"].views, images["train"].seed = section.views, seed
    unlabelled = load_unlabelled(section, forgotten, room)
    data = ImageData(**images, label_names=names, named=named, unlabelled=unlabelled.images, workers=section.workers)
    _refuse_empty_classes(data, section)
    facts = {role: _facts(part, origin[role], corrupt[role], names) for role, part in data.splits.items()}
    if data.unlabelled is not None:
        facts["unlabelled"] = _facts(data.unlabelled, ", ".join(unlabelled.origins), unlabelled.corrupt, names)
    data.facts = {
        "path": section.path,
        "revision": source.commit,
        "unlabelled_revisions": unlabelled.commits,
        "splits": facts,
    }
    return data


def _load_stream(section: DataSection, seed: int) -> ImageData:
    """The same for a data set whose training images are not kept; see `streaming.open_stream`."""
    source = load_raw(section, "data", streaming=True)
    raw = source.rows
    if features_of(raw) is None:
        raw = datasets.IterableDatasetDict({name: rows._resolve_features() for name, rows in raw.items()})
    image_column = image_column_of(raw, section, "data")
    label_column = _label_column(raw, section)
    feature = features_of(raw)[label_column] if label_column else None
    if feature is not None and not isinstance(feature, datasets.ClassLabel):
        raise UsageError(
            f"'data.label_column': a stream must know its classes beforehand, but column '{label_column}' holds "
            f"{feature.dtype}: store it as a ClassLabel of `datasets`, or leave out 'data.streaming'"
        )
    found = open_stream(raw, section, image_column, label_column, seed)
    names = list(feature.names) if feature is not None else []
    data = ImageData(**found.parts, label_names=names, named=bool(names), stream=found.stream, workers=section.workers)
    facts = {role: _facts(part, found.origins[role], found.corrupt[role], names) for role, part in data.splits.items()}
    unknown = {"corrupt_images_skipped": None, "unlabelled_images": None, "images_by_class": {}}
    facts["train"] |= {"images": len(found.stream), **unknown}
    data.facts = {"path": section.path, "revision": source.commit, "unlabelled_revisions": [], "splits": facts}
    return data


def _facts(images: ImageSplit, origin: str, corrupt: int, names: list[str]) -> dict[str, Any]:
    counts = sorted(Counter(images.labels).items())
    return {
        "images": len(images),
        "from": origin,
        "corrupt_images_skipped": corrupt,
        "unlabelled_images": images.labels.count(IGNORED_LABEL),
        "images_by_class": {names[label]: n for label, n in counts if label != IGNORED_LABEL},
    }


def _label_column(raw: datasets.DatasetDict, section: DataSection) -> str | None:
    features = features_of(raw)
    if section.label_column:
        if section.label_column not in features:
            raise UsageError(f"'data.label_column': there is no column '{section.label_column}' in {list(features)}")
        return section.label_column
    columns = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not columns:
        columns = [name for name in ("label", "labels") if name in features]
    if len(columns) > 1:
        raise UsageError(f"the data set has the label columns {', '.join(columns)}: name one in 'data.label_column'")
    return columns[0] if columns else None


def _encode_labels(raw: datasets.DatasetDict, column: str | None) -> tuple[datasets.DatasetDict, list[str], bool]:
    """Return the data with integer labels, the class names, and whether these are names or mere numbers."""
    if column is None:
        return raw, [], False
    feature = features_of(raw)[column]
    if isinstance(feature, datasets.ClassLabel):
        return raw, list(feature.names), True
    if not isinstance(feature, datasets.Value):
        raise UsageError(f"'data.label_column': column '{column}' holds {feature}, not classes")
    values = sorted({value for rows in raw.values() for value in rows.unique(column)} - {None, -1})
    if not all(isinstance(value, int | str) for value in values):
        raise UsageError(f"'data.label_column': column '{column}' holds {feature}, not classes")
    if not values or isinstance(values[0], int):
        count = max([value + 1 for value in values], default=0)
        if count > (images := sum(map(len, raw.values()))):
            raise RunError(f"label {count - 1} in column '{column}' makes {count} classes, of {images} images")
        return raw, [str(value) for value in range(count)], False
    raw = raw.map(lambda row: {column: -1 if row[column] is None else values.index(row[column])})
    return raw, values, True


def _refuse_empty_classes(data: ImageData, section: DataSection) -> None:
    if not data.labelled:
        return
    present = set(data.train.labels)
    empty = [name for label, name in enumerate(data.label_names) if label not in present]
    if empty:
        raise RunError(
            f"class '{empty[0]}' has no training images in {section.path}"
            f"{f' (and {len(empty) - 1} more classes)' if len(empty) > 1 else ''}: add images or remove the class"
        )
