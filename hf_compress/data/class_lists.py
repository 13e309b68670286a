"""Lists of class names that are not the same in all splits or files: the same number may mean another class."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import datasets
import httpx2
import pyarrow as pa
import pyarrow.parquet as pq

from hf_compress.data.addresses import opened
from hf_compress.ground.errors import UsageError

NUMBERS = ("int", "uint", "float", "bool")
Footer = tuple[int, datasets.Features]  # of a parquet file: its rows and columns


@dataclass
class Stretch:
    """Images one after the other in a split, whose labels have the same list of class names.

    Attributes:
        place: the split or the file that they are in.
    """

    images: int
    names: list[str]
    place: str


def unequal_files(
    files: dict[str, list[str]], column: str | None, image_column: str, place: str
) -> dict[str, dict[str, Footer]]:
    """Return the footers of parquet files by split; nothing where all have one list of class names.

    `datasets` reads the labels of all files as if they were numbered like those of the first. Of files on the Hub,
    only the footers are fetched.

    Args:
        files: by split, see `built.Source`.
        place: where they lie, in words.

    Raises:
        UsageError: a file cannot be read, has no images, or its labels are of another kind.
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


def class_lists(
    raw: datasets.DatasetDict, column: str, footers: dict[str, dict[str, Footer]]
) -> dict[str, list[Stretch]]:
    """Return the class names of every image by split.

    Args:
        footers: see `unequal_files`.

    Raises:
        UsageError: it is not known which file an image is from.
    """
    if not footers:
        return {
            split: [Stretch(len(rows), rows.features[column].names, f"split '{split}'")] for split, rows in raw.items()
        }
    names, known = next(iter(raw.values())).features[column].names, {}
    for split, rows in raw.items():
        known[split] = [
            Stretch(
                images, own.names if _is_list(own := columns.get(column)) else names, f"'{os.path.basename(file)}'"
            )
            for file, (images, columns) in footers.get(split, {}).items()
        ]
        if sum(stretch.images for stretch in known[split]) != len(rows):
            raise UsageError(
                f"the parquet files of split '{split}' have different lists of class names in column '{column}': "
                "write them with one list"
            )
    return known


def aligned(raw: datasets.DatasetDict, column: str, lists: dict[str, list[Stretch]]) -> list[int]:
    """Return the labels of all splits, one after the other, as indices into the class names of the first.

    Args:
        lists: see `class_lists`.

    Raises:
        UsageError: a split or file names a class that the first split does not.
    """
    first = next(iter(raw))
    names, labels = raw[first].features[column].names, []
    index = {name: number for number, name in enumerate(names)}
    for split, rows in raw.items():
        values, start = rows[column][:], 0
        for stretch in lists[split]:
            if unknown := [name for name in stretch.names if name not in index]:
                raise UsageError(
                    f"{stretch.place} names the class '{unknown[0]}' in column '{column}', which is none of split "
                    f"'{first}' ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}): give both one list"
                )
            new = [index[name] for name in stretch.names]
            own = values[start : start + stretch.images]
            labels += [-1 if label is None or label < 0 else new[label] for label in own]
            start += stretch.images
    return labels


def _footer(file: str) -> Footer:
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
