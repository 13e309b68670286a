"""Lists of class names that are not the same in all splits or files: the same number may mean another class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq

from hf_compress.errors import UsageError

NUMBERS = ("int", "uint", "float", "bool")


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
    folder: Path, column: str | None, image_column: str, config: str | None
) -> dict[str, dict[Path, datasets.Features]]:
    """Return the columns of every parquet file of a folder by split; nothing where all have one list of class names.

    `datasets` reads the labels of all files as if they were numbered like those of the first.

    Raises:
        UsageError: a file has no images, or its labels are of another kind.
    """
    found = [_columns(file) for file in sorted(folder.rglob("*.parquet"))] if folder.is_dir() else []
    if len({str((columns.get(column), image_column in columns)) for columns in found}) < 2:
        return {}
    splits = datasets.load_dataset_builder(str(folder), config).config.data_files
    files = {split: {Path(file): _columns(Path(file)) for file in of_split} for split, of_split in splits.items()}
    everything = {file: columns for of_split in files.values() for file, columns in of_split.items()}
    for file, columns in everything.items():
        if image_column not in columns:
            raise UsageError(
                f"'{file.name}' has no column '{image_column}', where other files in {folder} have images"
            )
    kinds = {kind: file.name for file, columns in everything.items() if (kind := _kind(columns.get(column)))}
    if "text" in kinds and ("numbers" in kinds or (next(iter(kinds)) == "text" and len(kinds) > 1)):
        held = " and ".join(f"{kind} in '{file}'" for kind, file in kinds.items())
        raise UsageError(f"column '{column}' holds {held}: write the labels of all files in one way")
    lists = {tuple(feature.names) for columns in everything.values() if _is_list(feature := columns.get(column))}
    return files if len(lists) > 1 else {}


def class_lists(
    raw: datasets.DatasetDict, column: str, files: dict[str, dict[Path, datasets.Features]]
) -> dict[str, list[Stretch]]:
    """Return the class names of every image by split.

    Args:
        files: see `unequal_files`.

    Raises:
        UsageError: it is not known which file an image is from.
    """
    if not files:
        return {
            split: [Stretch(len(rows), rows.features[column].names, f"split '{split}'")] for split, rows in raw.items()
        }
    names, known = next(iter(raw.values())).features[column].names, {}
    for split, rows in raw.items():
        known[split] = [
            Stretch(pq.read_metadata(file).num_rows, own.names if _is_list(own) else names, f"'{file.name}'")
            for file, own in ((file, columns.get(column)) for file, columns in files.get(split, {}).items())
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
    for split, rows in raw.items():
        values, start = rows[column][:], 0
        for stretch in lists[split]:
            if unknown := [name for name in stretch.names if name not in names]:
                raise UsageError(
                    f"{stretch.place} names the class '{unknown[0]}' in column '{column}', which is none of split "
                    f"'{first}' ({', '.join(names[:5])}{', ...' if len(names) > 5 else ''}): give both one list"
                )
            new = [names.index(name) for name in stretch.names]
            own = values[start : start + stretch.images]
            labels += [-1 if label is None or label < 0 else new[label] for label in own]
            start += stretch.images
    return labels


def _columns(file: Path) -> datasets.Features:
    return datasets.Features.from_arrow_schema(pq.read_schema(file))


def _is_list(feature: Any) -> bool:
    return isinstance(feature, datasets.ClassLabel)


def _kind(feature: Any) -> str | None:
    dtype = getattr(feature, "dtype", "")
    if _is_list(feature):
        return "class names"
    return "numbers" if dtype.startswith(NUMBERS) else "text" if "string" in dtype else None
