"""Pictures whose labels stand in a metadata.csv, metadata.jsonl or metadata.parquet, as `datasets` reads it."""

import glob
import os
import re
from collections.abc import Iterator

import datasets

from hf_compress.data.addresses import local_copy
from hf_compress.data.csv_words import columns_of_numbers, lines_of
from hf_compress.data.folders import File, Folder, FolderError, LeftOut, some
from hf_compress.data.layout import PathParts, in_order, pictures_under
from hf_compress.sections.data import SourceSection


def load_described(
    folder: Folder, bases: dict[str, PathParts], section: SourceSection
) -> tuple[datasets.DatasetDict, list[LeftOut]]:
    """Load the pictures that metadata files name, and held-out ones of splits that have no such file.

    Raises:
        FolderError: there have to be labels and no column has any, or a metadata file does not belong to one split.
    """
    files = _metadata_files(folder, bases)
    if section.wants_classes and not files.get("train", True):
        raise FolderError("the split 'train' has no metadata file, but others have: add it")
    sources = {split: [glob.escape(folder.path(file)) for file in found] for split, found in files.items() if found}
    rows = datasets.load_dataset("imagefolder", data_files=sources)
    for split, part in rows.items():
        tables = [file for file in sources[split] if file.endswith(".csv")]
        if tables and "image" in part.features:
            rows[split] = _with_words(part, tables)
    for split, part in rows.items():
        if len(sources[split]) > 1:  # which `datasets` reads in any order
            names = list(_image_paths(part))
            rows[split] = part.select(sorted(range(len(part)), key=names.__getitem__))
    if copy := local_copy(folder.path(first := folder.of_kind("metadata")[0])):
        beside = copy.removesuffix("/".join(first.parts))
        rows = datasets.DatasetDict({split: _addressed(part, beside, folder) for split, part in rows.items()})
    features = next(iter(rows.values())).features
    if section.wants_classes:
        _refuse_without_labels(folder, features, section.label_column)
    named = {os.path.normpath(path) for part in rows.values() for path in _image_paths(part)}
    paths = {file: os.path.normpath(folder.path(file)) for file in folder.files}
    used = [file for file in folder.files if paths[file] in named or file.kind == "metadata"]
    for split in bases.keys() - rows.keys():
        alone = [file for file in pictures_under(folder, split, bases) if paths[file] not in named]
        columns = {name: [None] * len(alone) for name in features} | {"image": [folder.path(file) for file in alone]}
        rows[split] = datasets.Dataset.from_dict(columns, features=features)
        used += alone
    reasons = dict.fromkeys(folder.of_kind("picture"), "pictures that no metadata file names")
    return datasets.DatasetDict(in_order(rows)), folder.left_out(used, reasons)


def _with_words(rows: datasets.Dataset, files: list[str]) -> datasets.Dataset:
    """Put back the words that pandas takes for nothing (None, NA, null, nan, ...), where a column holds words.

    Args:
        files: the escaped paths of the metadata.csv files that `datasets` read.
    """
    plain = {name: list(rows[name]) for name, kind in rows.features.items() if isinstance(kind, datasets.Value)}
    gone = {
        name: values for name, values in plain.items() if {type(None)} <= set(map(type, values)) <= {type(None), str}
    }
    if not gone:
        return rows
    written: dict[str, dict[str, str]] = {}
    of_numbers: set[str] = set()
    for address in map(_unescaped, files):
        lines = lines_of(address)
        of_numbers |= columns_of_numbers(lines)
        beside = os.path.dirname(local_copy(address) or address)
        written |= {os.path.normpath(os.path.join(beside, line.get("file_name") or "")): line for line in lines}
    pictures = rows.select_columns("image").cast_column("image", datasets.Image(decode=False))["image"]
    lines = [written.get(os.path.normpath(picture["path"]), {}) if picture else {} for picture in pictures]
    for name, values in gone.items():
        if name in of_numbers:
            continue
        words = [line.get(name) or None if value is None else value for value, line in zip(values, lines, strict=True)]
        rows = rows.remove_columns(name).add_column(name, words, feature=datasets.Value("string"))
    return rows


def _unescaped(pattern: str) -> str:
    """Return what `glob.escape` was given."""
    return re.sub(r"\[([*?[])\]", r"\1", pattern)


def _addressed(rows: datasets.Dataset, copy: str, folder: Folder) -> datasets.Dataset:
    """Let pictures that `datasets` expects beside its copy of a metadata file be where they are on the Hub."""
    for name in [name for name, feature in rows.features.items() if isinstance(feature, datasets.Image)]:
        plain = rows.cast_column(name, datasets.Image(decode=False))
        paths = [picture and os.path.join(folder.root, picture["path"].removeprefix(copy)) for picture in plain[name]]
        rows = rows.remove_columns(name).add_column(name, paths).cast_column(name, datasets.Image())
    return rows


def _metadata_files(folder: Folder, bases: dict[str, PathParts]) -> dict[str, list[File]]:
    every = folder.of_kind("metadata")
    if len(bases) == 1:
        return {split: every for split in bases}
    files = {split: [file for file in folder.under(base) if file.kind == "metadata"] for split, base in bases.items()}
    if above := set(every).difference(*files.values()):
        raise FolderError(
            f"{some(file.name for file in above)} lies above the splits {some(bases)}: put one into each split's "
            "folder, with paths from there in its column file_name"
        )
    return files


def _refuse_without_labels(folder: Folder, features: datasets.Features, label_column: str | None) -> None:
    """Refuse metadata without labels, where there are class folders that it hides, or other columns."""
    name = folder.of_kind("metadata")[0].name
    if label_column or any(isinstance(kind, datasets.ClassLabel) for kind in features.values()):
        return
    if "label" in features or "labels" in features:
        return
    advice = "add a column label, name one in 'data.label_column', or move the file out of the folder"
    classes = {file.parts[:-1] for file in folder.of_kind("picture")}
    if len(classes) > 1:
        raise FolderError(
            f"{name!r} has no column label, and hides the folders {some(map('/'.join, classes))}: {advice}"
        )
    if others := [column for column in features if column != "image"]:
        raise FolderError(f"{name!r} has no column label, but {some(others)}: {advice}")


def _image_paths(rows: datasets.Dataset) -> Iterator[str]:
    """Yield the path of every picture in columns of pictures, or of lists of them."""
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            plain = rows.select_columns(name).cast_column(name, datasets.Image(decode=False))
            yield from (picture["path"] for picture in plain[name] if picture)
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            plain = rows.select_columns(name).cast_column(name, datasets.List(datasets.Image(decode=False)))
            yield from (picture["path"] for pictures in plain[name] for picture in pictures or ())
