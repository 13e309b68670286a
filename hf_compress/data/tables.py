"""Files of many pictures each, as the Hub stores them: parquet, Arrow, WebDataset; and lists of pictures' paths."""

import glob
import re
from typing import Any

import datasets

from hf_compress.data.csv_words import NOTHING, columns_of_numbers, lines_of
from hf_compress.data.folders import File, Folder, FolderError, LeftOut, some
from hf_compress.data.formats import TABLES, holds_pictures, is_webdataset
from hf_compress.data.layout import OTHER, in_order, role_of, roles_in
from hf_compress.sections.data import SourceSection

SEPARATORS = {".csv": ",", ".tsv": "\t"}
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}.*")


def find_tables(folder: Folder) -> list[File]:
    """Return the files of many pictures each that are read, all of one format; pictures beside them are not."""
    pictures = folder.of_kind("picture", "foreign")
    for ending in TABLES:
        files = [file for file in folder.of_kind("table") if file.ending == ending]
        if ending == ".tar":
            files = [file for file in files if is_webdataset(folder.path(file), alone=not pictures)]
        elif pictures and files and not holds_pictures(folder.path(files[0])):
            continue
        if files:
            return files
    return []


def open_tables(
    folder: Folder, files: list[File], section: SourceSection
) -> tuple[datasets.DatasetBuilder, list[LeftOut]]:
    """Return what reads such files, and all others. FolderError: it is not clear which split a file belongs to."""
    ending = files[0].ending
    splits = table_splits(files, section).items()
    paths = {split: [glob.escape(folder.path(file)) for file in found] for split, found in splits}
    options = _reading([folder.path(file) for file in files], ending) if ending in SEPARATORS else {}
    builder = datasets.load_dataset_builder(TABLES[ending], data_files=paths, **options)
    unused = dict.fromkeys(folder.of_kind("picture", "table"), f"files beside those that are read ({ending})")
    return builder, folder.left_out(files, unused)


def _reading(addresses: list[str], ending: str) -> dict[str, Any]:
    """Return how pandas is to read CSV files: in columns of words, None, NA and null are words, too."""
    separator = SEPARATORS[ending]
    lines = [line for address in addresses for line in lines_of(address, separator)]
    of_numbers = columns_of_numbers(lines)
    nothing = {name: sorted(NOTHING) if name in of_numbers else [""] for name in (lines[0] if lines else ())}
    return {"sep": separator, "keep_default_na": False, "na_values": nothing}


def table_splits(files: list[File], section: SourceSection) -> dict[str, list[File]]:
    """Decide by the folders above a file, else by its name, to which split it belongs; FolderError if unclear."""
    splits: dict[str | None, list[File]] = {}
    for file in files:
        splits.setdefault(_table_split(file, section.wanted_splits), []).append(file)
    others = splits.pop(None, [])
    if not splits:
        return {"train": others}
    if others and section.wants_classes:
        raise FolderError(
            f"{some(file.name for file in others)} beside the splits {some(splits)} names no split: rename it to one "
            "(train, validation, test), name it in 'data.splits', or move it out of the folder"
        )
    return in_order(splits | ({OTHER: others} if others else {}))


def _table_split(file: File, wanted: set[str]) -> str | None:
    for part in file.parts[:-1]:
        if role := role_of(part, wanted):
            return role
    name = file.parts[-1]
    stem = name[: name.lower().rindex(file.ending)]
    if shard := SHARD.fullmatch(stem):
        stem = shard[1]
    if role := role_of(stem, wanted):
        return role
    roles = roles_in(stem)
    if len(roles) > 1:
        raise FolderError(f"the name of {file.name!r} has words of several splits: rename it to one of them")
    return next(iter(roles), stem if shard and file.parts[-2:-1] == ("data",) else None)
