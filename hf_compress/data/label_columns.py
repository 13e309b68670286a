"""Which column holds the labels, and class indices from whatever it holds."""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np

from hf_compress.checkpoint.labels import MOST_LABELS
from hf_compress.data.class_lists import Footer, aligned, class_lists
from hf_compress.data.sources import features_of
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.sections.data import DataSection

TEXT = ("string", "large_string", "string_view")


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
    if not columns:
        columns = [name for name in ("label", "labels") if name in features]
    if len(columns) > 1:
        raise UsageError(f"the data set has the label columns {', '.join(columns)}: name one in 'data.label_column'")
    return columns[0] if columns else None


def encoded(
    raw: datasets.DatasetDict, column: str, footers: dict[str, dict[str, Footer]]
) -> tuple[np.ndarray, list[str], bool]:
    """Return the labels of all splits, one after the other, as class indices.

    | column | classes |
    |---|---|
    | `ClassLabel` | its names; lists that differ between splits are matched by name |
    | text | every distinct text in alphabetical order, without the spaces around it |
    | whole numbers, also as floats, and truth values | from 0 to the highest, without names |

    None, nan, empty text and negative numbers are no label.

    Args:
        footers: of parquet files, whose lists of class names differ.

    Returns:
        Labels, negative where there is none; the class names; and whether these are names or mere numbers.

    Raises:
        UsageError: the column holds no classes, or too many, or the classes of a split are not those of the first.
        RunError: a number would make more classes than there are images.
    """
    feature = features_of(raw)[column]
    if isinstance(feature, datasets.ClassLabel):
        refuse_many(len(feature.names), column)
        return np.array(aligned(raw, column, class_lists(raw, column, footers)), dtype=int), list(feature.names), True
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
