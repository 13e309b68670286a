"""From the `data` section of a recipe to three splits of images with aligned labels."""

from __future__ import annotations

import logging
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from rich.progress import Progress

from hf_compress.data.augmentation import build_augmentation
from hf_compress.data.images import IGNORED_LABEL, ImageSplit, decode, input_size
from hf_compress.data.splits import split
from hf_compress.errors import CompressError, RunError, UsageError
from hf_compress.recipe import DataSection

if TYPE_CHECKING:
    from transformers import BaseImageProcessor

logger = logging.getLogger(__name__)


@dataclass
class ImageData:
    """The images of a run.

    Attributes:
        train, validation, test: the splits.
        label_names: class names in the order of the labels; empty when the data has no labels.
        named: whether the names come from the data; plain numbers carry no name.
        facts: counts and origins for the report.
    """

    train: ImageSplit
    validation: ImageSplit
    test: ImageSplit
    label_names: list[str]
    named: bool
    facts: dict[str, Any] = field(default_factory=dict)
    workers: int = 0

    @property
    def splits(self) -> dict[str, ImageSplit]:
        return {"train": self.train, "validation": self.validation, "test": self.test}

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
        position = {_plain(name): index for index, name in enumerate(names)}
        if len(position) != len(names) or set(position) != {_plain(name) for name in self.label_names}:
            return False
        new = [position[_plain(name)] for name in self.label_names]
        for images in self.splits.values():
            images.labels = [label if label == IGNORED_LABEL else new[label] for label in images.labels]
        self.label_names = list(names)
        return True

    def set_augmentation(self, name: str, *processors: BaseImageProcessor) -> None:
        """Augment the training images, in the largest size that one of the image processors makes."""
        heights, widths = zip(*map(input_size, processors), strict=True)
        self.train.augment = build_augmentation(name, (max(heights), max(widths)))


def load_data(section: DataSection, seed: int) -> ImageData:
    """Load, check and divide the images.

    Raises:
        UsageError: the data set, a column or a split does not exist.
        RunError: a class is empty, or an image is corrupt and the recipe says stop.
    """
    raw, commit = (_digits(), None) if section.path == "digits" else _load(section)
    image_column = section.image_column or _image_column(raw)
    label_column = _label_column(raw, section)
    raw, names, named = _encode_labels(raw, label_column)
    raw = raw.cast_column(image_column, datasets.Image(decode=False))
    parts, origin = split(raw, section.splits, label_column, seed)
    corrupt = {}
    images = {}
    for role, rows in parts.items():
        rows, corrupt[role] = _without_corrupt(rows, image_column, section.on_corrupt, role)
        labels = [IGNORED_LABEL] * len(rows) if label_column is None else _labels(rows, label_column)
        images[role] = ImageSplit(rows.select_columns(image_column), image_column, labels)
        if not labels:
            raise RunError(f"split '{role}' of {section.path} has no images")
    data = ImageData(**images, label_names=names, named=named, workers=section.workers)
    _refuse_empty_classes(data, section)
    data.facts = {
        "path": section.path,
        "revision": commit,
        "splits": {
            role: {
                "images": len(part),
                "from": origin[role],
                "corrupt_images_skipped": corrupt[role],
                "unlabelled_images": part.labels.count(IGNORED_LABEL),
                "images_by_class": {
                    names[label]: n for label, n in sorted(Counter(part.labels).items()) if label != IGNORED_LABEL
                },
            }
            for role, part in data.splits.items()
        },
    }
    return data


def _load(section: DataSection) -> tuple[datasets.DatasetDict, str | None]:
    """Return the data, and its commit where it comes from the Hub."""
    folder = Path(section.path).expanduser()
    looks_local = section.path.startswith(("/", ".", "~")) or folder.exists()
    if looks_local and not folder.is_dir():
        raise UsageError(f"'data.path': there is no folder '{section.path}'")
    if looks_local:
        _refuse_empty_class_folders(folder)
    try:
        loaded = datasets.load_dataset(
            str(folder) if looks_local else section.path, section.name, revision=section.revision
        )
    except CompressError:
        raise
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UsageError(f"'data.path': {str(error).rstrip('.')}; check the id, or log in if it is private") from None
    except datasets.data_files.EmptyDatasetError:
        raise UsageError(f"'data.path': the folder '{section.path}' has no images or parquet files") from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"'data.path': {section.path} cannot be loaded: {reason}") from None
    raw = loaded if isinstance(loaded, datasets.DatasetDict) else datasets.DatasetDict({"train": loaded})
    return raw, None if looks_local else _hub_commit(raw, section)


def _hub_commit(raw: datasets.DatasetDict, section: DataSection) -> str | None:
    """Return the commit of a Hub data set, after which `datasets` names its cache folder.

    Without a connection, `datasets` takes the latest version in its cache, whatever revision is asked for.
    """
    files = next(iter(raw.values())).cache_files
    commit = Path(files[0]["filename"]).parent.name if files else ""
    if not re.fullmatch("[0-9a-f]{40}", commit):
        return None
    if re.fullmatch("[0-9a-f]{40}", section.revision or "") and section.revision != commit:
        raise RunError(
            f"{section.path} is cached at commit {commit}, not at 'data.revision' {section.revision}, and the Hub is "
            "out of reach: connect once to cache that commit"
        )
    return commit


def _digits() -> datasets.DatasetDict:
    """The 1,797 handwritten digits (8x8 pixels) that scikit-learn ships."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = [Image.fromarray(picture) for picture in np.uint8(digits.images * 255 / 16)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("0123456789"))})
    rows = datasets.Dataset.from_dict({"image": pictures, "label": digits.target}, features=features)
    return datasets.DatasetDict({"train": rows})


def _features(raw: datasets.DatasetDict) -> datasets.Features:
    return next(iter(raw.values())).features


def _image_column(raw: datasets.DatasetDict) -> str:
    columns = [name for name, feature in _features(raw).items() if isinstance(feature, datasets.Image)]
    if len(columns) != 1:
        found = f"several image columns ({', '.join(columns)})" if columns else "no image column"
        raise UsageError(f"the data set has {found}: name one of {', '.join(_features(raw))} in 'data.image_column'")
    return columns[0]


def _label_column(raw: datasets.DatasetDict, section: DataSection) -> str | None:
    features = _features(raw)
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
    feature = _features(raw)[column]
    if isinstance(feature, datasets.ClassLabel):
        return raw, list(feature.names), True
    values = sorted({value for rows in raw.values() for value in rows.unique(column)} - {None, -1})
    if not all(isinstance(value, int | str) for value in values):
        raise UsageError(f"'data.label_column': column '{column}' holds {feature}, not classes")
    if values and isinstance(values[0], int):
        return raw, [str(value) for value in range(values[-1] + 1)], False
    raw = raw.map(lambda row: {column: -1 if row[column] is None else values.index(row[column])})
    return raw, values, True


def _labels(rows: datasets.Dataset, column: str) -> list[int]:
    return [IGNORED_LABEL if label is None or label < 0 else int(label) for label in rows[column]]


def _without_corrupt(rows: datasets.Dataset, column: str, on_corrupt: str, role: str) -> tuple[datasets.Dataset, int]:
    """Decode every picture once; leave out, or stop at, those that cannot be decoded."""

    def fault(picture: dict[str, Any]) -> str | None:
        try:
            decode(picture)
        except (OSError, SyntaxError, ValueError) as error:
            return f"{picture['path'] or 'a picture'} ({error})"
        return None

    pictures = rows.select_columns(column)
    faults: list[str | None] = []
    with ThreadPoolExecutor() as pool, Progress(transient=True) as progress:
        task = progress.add_task(f"Checking {role} images", total=len(rows))
        for batch in pictures.iter(batch_size=256):
            faults += pool.map(fault, batch[column])
            progress.update(task, completed=len(faults))
    bad = [text for text in faults if text]
    if bad and on_corrupt == "stop":
        raise RunError(f"split '{role}' has {len(bad)} corrupt images, the first is {bad[0]}; 'data.on_corrupt: skip'")
    if bad:
        logger.warning("split '%s': skipped %d corrupt images, the first is %s", role, len(bad), bad[0])
        rows = rows.select([index for index, text in enumerate(faults) if not text])
    return rows, len(bad)


def _refuse_empty_class_folders(folder: Path) -> None:
    """The imagefolder loader overlooks a class folder without files; a run would then learn one class less."""
    for parent in (folder, *(child for child in folder.iterdir() if child.is_dir())):
        children = [child for child in parent.iterdir() if child.is_dir() and not child.name.startswith(".")]
        empty = [child.name for child in children if not any(child.iterdir())]
        if empty and len(children) > 1:
            raise RunError(f"class folder '{parent / empty[0]}' is empty: add images or remove the folder")


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


def _plain(name: str) -> str:
    return " ".join(str(name).lower().replace("_", " ").split())
