"""Which column holds the labels, and class indices from whatever it holds, in all splits and files."""

import itertools
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import httpx2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hf_compress.checkpoint.labels import MOST_LABELS
from hf_compress.data.addresses import opened
from hf_compress.data.annotations import FoundLabels
from hf_compress.data.folders import some
from hf_compress.data.sources import features_of
from hf_compress.ground.errors import RunError, UsageError, shown
from hf_compress.sections.data import DataSection

TEXT = ("string", "large_string", "string_view")
NUMBERS = ("int", "uint", "float", "bool")
USUAL = ("label", "labels", "cls")  # the last one is that of WebDataset
logger = logging.getLogger(__name__)
Footers = dict[str, dict[str, tuple[int, datasets.Features]]]  # rows and columns of parquet files, by split and file


def label_column_of(raw: datasets.DatasetDict, section: DataSection) -> str | None:
    """Return the label column that a section names, or else the only one.

    Raises:
        UsageError: there is no such column, or more than one.
    """
    features = features_of(raw)
    if section.label_column:
        if section.label_column not in features:
            raise UsageError(f"'data.label_column': there is no column '{section.label_column}' in {list(features)}")
        return section.label_column
    columns = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    usual = [name for name in USUAL if name in features]
    if not set(usual) & set(columns):
        columns += usual
    if len(columns) > 1:
        raise UsageError(f"the data set has the label columns {', '.join(columns)}: name one in 'data.label_column'")
    return columns[0] if columns else None


def nothing_known(raw: datasets.DatasetDict, section: DataSection) -> FoundLabels:
    """Return that no picture has a label, and warn where columns are left that may hold what they show."""
    pictures = (datasets.Image, datasets.List, datasets.LargeList)
    others = [
        name
        for name, feature in (features_of(raw) or {}).items()
        if not name.startswith("__") and not isinstance(feature, pictures)
    ]
    if others:
        logger.warning(
            "%s: the pictures count as unlabelled, as no column is called like labels; is it one of %s? name it in "
            "'data.label_column'",
            shown(section.path), some(others),
        )  # fmt: skip
    return FoundLabels(None, [], False)


def unequal_files(files: dict[str, list[str]], column: str | None, image_column: str, place: str) -> Footers:
    """Return the footers of parquet files by split (see `local.Source`); none where all have one list of class names.

    `datasets` reads the labels of all files as if they were numbered like those of the first. Of files on the Hub,
    only the footers are fetched.

    Raises:
        UsageError: a file in `place` cannot be read, has no images, or its labels are of another kind.
    """
    if sum(map(len, files.values())) < 2:
        return {}
    with ThreadPoolExecutor() as pool:
        footers = {split: dict(zip(own, pool.map(_footer, own), strict=True)) for split, own in files.items()}
    everything = {file: columns for own in footers.values() for file, (_, columns) in own.items()}
    for file, columns in everything.items():
        if image_column not in columns:
            raise UsageError(
                f"'{os.path.basename(file)}' has no column '{image_column}', where other files in {place} have images"
            )
    kinds = {kind: file for file, columns in everything.items() if (kind := _kind(columns.get(column)))}
    if "text" in kinds and ("numbers" in kinds or (next(iter(kinds)) == "text" and len(kinds) > 1)):
        held = " and ".join(f"{kind} in '{os.path.basename(file)}'" for kind, file in kinds.items())
        raise UsageError(f"column '{column}' holds {held}: write the labels of all files in one way")
    lists = {tuple(feature.names) for columns in everything.values() if _is_list(feature := columns.get(column))}
    return footers if len(lists) > 1 else {}


def encoded(raw: datasets.DatasetDict, column: str, footers: Footers) -> tuple[np.ndarray, list[str], bool]:
    """Return the labels of all splits, one after the other, as class indices.

    | column | classes |
    |---|---|
    | `ClassLabel` | its names; lists that differ between splits, or files (`footers`), are matched by name |
    | text | every distinct text in alphabetical order, without the spaces around it |
    | whole numbers, also as floats, and truth values | from 0 to the highest, without names |

    None, nan, empty text and negative numbers are no label.

    Returns:
        Labels, negative where there is none; the class names; and whether these are names or mere numbers.

    Raises:
        UsageError: the column holds no classes, or too many, or the classes of a split are not those of the first.
        RunError: a number would make more classes than there are images.
    """
    feature = features_of(raw)[column]
    if isinstance(feature, datasets.ClassLabel):
        refuse_many(len(feature.names), column)
        return np.array(_aligned(raw, column, footers), dtype=int), list(feature.names), True
    if not isinstance(feature, datasets.Value):
        raise _no_classes(column, feature)
    values = [value for rows in raw.values() for value in rows[column]]
    if feature.dtype in TEXT:
        texts = [(value or "").strip() for value in values]
        names = sorted(set(texts) - {""})
        refuse_many(len(names), column)
        index = {name: number for number, name in enumerate(names)} | {"": -1}
        return np.array([index[text] for text in texts], dtype=int), names, True
    labels = np.array([_whole(value, column, feature) for value in values], dtype=int)
    count = max(labels, default=-1) + 1
    if count > len(labels):
        raise RunError(f"label {count - 1} in column '{column}' makes {count} classes, of {len(labels)} images")
    refuse_many(count, column)
    return labels, [str(value) for value in range(count)], False


def refuse_many(count: int, column: str) -> None:
    """Raise UsageError for more classes than a model may have."""
    if count > MOST_LABELS:
        raise UsageError(
            f"'data.label_column': column '{column}' holds {count:,} classes, which is more than {MOST_LABELS:,}: "
            "name a column of fewer classes"
        )


def _aligned(raw: datasets.DatasetDict, column: str, footers: Footers) -> list[int]:
    """Return the labels of all splits, one after the other, as indices into the class names of the first."""
    first, names, labels = next(iter(raw)), features_of(raw)[column].names, []
    index = {name: number for number, name in enumerate(names)}
    for split, rows in raw.items():
        values = iter(rows[column][:])
        for images, own, place in _class_lists(split, rows, column, names, footers):
            if unknown := [name for name in own if name not in index]:
                raise UsageError(
                    f"{place} names the class '{unknown[0]}' in column '{column}', which is none of split "
                    f"'{first}' ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}): give both one list"
                )
            new = [index[name] for name in own]
            labels += [-1 if label is None or label < 0 else new[label] for label in itertools.islice(values, images)]
    return labels


def _class_lists(
    split: str, rows: datasets.Dataset, column: str, first: list[str], footers: Footers
) -> list[tuple[int, list[str], str]]:
    """Return, for images in a row that have one list of class names, how many they are, that list, and their place."""
    if not footers:
        return [(len(rows), rows.features[column].names, f"split '{split}'")]
    found = [
        (images, own.names if _is_list(own := columns.get(column)) else first, f"'{os.path.basename(file)}'")
        for file, (images, columns) in footers.get(split, {}).items()
    ]
    if sum(images for images, *_ in found) != len(rows):
        raise UsageError(
            f"the parquet files of split '{split}' have different lists of class names in column '{column}': "
            "write them with one list"
        )
    return found


def _footer(file: str) -> tuple[int, datasets.Features]:
    try:
        with opened(file) as content:
            metadata = pq.read_metadata(content)
    except (OSError, pa.ArrowException, httpx2.TransportError) as error:
        raise UsageError(f"'{os.path.basename(file)}' cannot be read: {' '.join(str(error).split())}") from None
    return metadata.num_rows, datasets.Features.from_arrow_schema(metadata.schema.to_arrow_schema())


def _is_list(feature: Any) -> bool:
    return isinstance(feature, datasets.ClassLabel)


def _kind(feature: Any) -> str | None:
    dtype = getattr(feature, "dtype", "")
    if _is_list(feature):
        return "class names"
    return "numbers" if dtype.startswith(NUMBERS) else "text" if "string" in dtype else None


def _whole(value: Any, column: str, feature: datasets.Value) -> int:
    if value is None or value != value:
        return -1
    if not isinstance(value, int | float) or not np.isfinite(value) or value != int(value):
        raise _no_classes(column, feature, f", such as {value!r}")
    return int(value) if value >= 0 else -1


def _no_classes(column: str, feature: Any, example: str = "") -> UsageError:
    return UsageError(
        f"'data.label_column': column '{column}' holds {getattr(feature, 'dtype', feature)}{example}, not classes: "
        "name a column of texts or whole numbers"
    )
