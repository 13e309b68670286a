"""A data set from the files of a folder: `datasets` gets a list of them, and decides about none."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub

from hf_compress.data.folders import File, Folder, FolderError, LeftOut, scan, some, summary
from hf_compress.data.formats import TABLES, ending_of, holds_pictures, is_webdataset
from hf_compress.data.hints import refuse_labels_elsewhere, refuse_metadata_without_labels
from hf_compress.data.layout import OTHER, find_splits, in_order, lay_out, role_of, roles_in
from hf_compress.sections import SourceSection, UnlabelledSection

Rows = datasets.DatasetDict | datasets.IterableDatasetDict
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}.*")


def load_folder(root: Path, section: SourceSection, streaming: bool) -> tuple[Rows, list[LeftOut]]:
    """Return the data of a folder, and which of its files are left out.

    Pictures (see `layout`), described by a `metadata.csv` where there is one; or files of which each holds many.

    Raises:
        FolderError: it is not clear what the pictures' splits or classes are, or some would be without a class.
    """
    root = Path(os.path.abspath(root))
    if (root / "dataset_dict.json").exists() or (root / "state.json").exists():
        return _saved(root, streaming), []
    if _card_names_files(root):
        return datasets.load_dataset(str(root), section.name, streaming=streaming), []
    folder, wanted = scan(root), _wanted(section)
    labelled = not isinstance(section, UnlabelledSection)
    if tables := _tables(folder):
        return _load_tables(folder, tables, wanted, labelled, streaming)
    if not folder.of_kind("picture"):
        raise FolderError(_nothing(folder))
    if folder.of_kind("metadata"):
        rows, left_out = _load_described(folder, section, wanted, labelled)
    else:
        rows, left_out = _load_pictures(folder, wanted, labelled)
    return (_streams(rows) if streaming else rows), left_out


def _saved(root: Path, streaming: bool) -> Rows:
    """Load what `save_to_disk` of `datasets` wrote."""
    saved = datasets.load_from_disk(str(root))
    rows = saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict({"train": saved})
    if not streaming:
        return rows
    return datasets.IterableDatasetDict({split: part.to_iterable_dataset() for split, part in rows.items()})


def _wanted(section: SourceSection) -> set[str]:
    """Return the names of splits that stand in the recipe."""
    names = [section.split] if isinstance(section, UnlabelledSection) else vars(section.splits).values()
    return {name.partition("[")[0] for name in names if isinstance(name, str)}


def _load_pictures(folder: Folder, wanted: set[str], labelled: bool) -> tuple[datasets.DatasetDict, list[LeftOut]]:
    if labelled:
        refuse_labels_elsewhere(folder, find_splits(folder, wanted, labelled))
    layout = lay_out(folder, wanted, labelled)
    features = datasets.Features({"image": datasets.Image()})
    if layout.classes:
        features["label"] = datasets.ClassLabel(names=layout.classes)
    rows = datasets.DatasetDict()
    for split, pictures in layout.pictures.items():
        columns = {"image": [folder.path(file) for file in pictures], "label": layout.labels[split]}
        rows[split] = datasets.Dataset.from_dict({name: columns[name] for name in features}, features=features)
    return rows, folder.left_out([file for pictures in layout.pictures.values() for file in pictures], {})


def _load_described(
    folder: Folder, section: SourceSection, wanted: set[str], labelled: bool
) -> tuple[datasets.DatasetDict, list[LeftOut]]:
    """Load pictures whose names stand in metadata files; others are left out."""
    bases = find_splits(folder, wanted, labelled)
    files = {split: [file for file in folder.under(base) if file.kind == "metadata"] for split, base in bases.items()}
    if len(bases) == 1:
        files = {split: folder.of_kind("metadata") for split in bases}
    above = set(folder.of_kind("metadata")).difference(*files.values())
    if above:
        raise FolderError(
            f"{some(file.name for file in above)} lies above the splits {some(bases)}: put one into each split's "
            "folder, with paths from there in its column file_name"
        )
    if labelled and "train" in files and not files["train"]:
        raise FolderError("the split 'train' has no metadata file, but others have: add it")
    found = {split: [glob.escape(folder.path(file)) for file in part] for split, part in files.items() if part}
    rows = datasets.load_dataset("imagefolder", data_files=found)
    for split, part in rows.items():
        if len(found[split]) > 1:  # which `datasets` reads in any order
            paths = list(_image_paths(part))
            rows[split] = part.select(sorted(range(len(part)), key=paths.__getitem__))
    features = next(iter(rows.values())).features
    if labelled:
        refuse_metadata_without_labels(folder, features, section.label_column)
    by_path = {folder.path(file): file for file in folder.of_kind("picture")}
    named = {os.path.normpath(path) for part in rows.values() for path in _image_paths(part)}
    used = [file for path, file in by_path.items() if path in named]
    for split, base in bases.items():
        if split not in rows:
            alone = [file for file in folder.under(base) if file.kind == "picture"]
            columns = {name: [None] * len(alone) for name in features} | {"image": [folder.path(f) for f in alone]}
            rows[split] = datasets.Dataset.from_dict(columns, features=features)
            used += alone
    reasons = dict.fromkeys(by_path.values(), "pictures that no metadata file names")
    return rows, folder.left_out([*used, *(file for part in files.values() for file in part)], reasons)


def _image_paths(rows: datasets.Dataset) -> Iterator[str]:
    """Yield the path of every picture in columns of pictures, or of lists of them."""
    for name, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            plain = rows.select_columns(name).cast_column(name, datasets.Image(decode=False))
            yield from (picture["path"] for picture in plain[name] if picture)
        elif isinstance(getattr(feature, "feature", None), datasets.Image):
            plain = rows.select_columns(name).cast_column(name, datasets.List(datasets.Image(decode=False)))
            yield from (picture["path"] for pictures in plain[name] for picture in pictures or ())


def _tables(folder: Folder) -> list[File]:
    """Return the files of many pictures each that are read, all of one format; pictures beside them are not."""
    pictures = folder.of_kind("picture", "foreign")
    for ending in TABLES:
        files = [file for file in folder.of_kind("table") if ending_of(file.parts[-1]) == ending]
        if ending == ".tar":
            files = [file for file in files if is_webdataset(folder.path(file), alone=not pictures)]
        elif pictures and files and not holds_pictures(folder.path(files[0])):
            continue
        if files:
            return files
    return []


def _load_tables(
    folder: Folder, files: list[File], wanted: set[str], labelled: bool, streaming: bool
) -> tuple[Rows, list[LeftOut]]:
    ending = ending_of(files[0].parts[-1])
    splits = _table_splits(files, wanted, labelled)
    paths = {split: [glob.escape(folder.path(file)) for file in found] for split, found in splits.items()}
    options = {"sep": "\t"} if ending == ".tsv" else {}
    rows = datasets.load_dataset(TABLES[ending], data_files=paths, streaming=streaming, **options)
    unused = dict.fromkeys(folder.of_kind("picture", "table"), f"files beside those that are read ({ending})")
    return rows, folder.left_out(files, unused)


def _table_splits(files: list[File], wanted: set[str], labelled: bool) -> dict[str, list[File]]:
    """Decide by the folders above a file, else by its name, to which split it belongs.

    Raises:
        FolderError: some files name a split, and others none or two.
    """
    splits: dict[str | None, list[File]] = {}
    for file in files:
        splits.setdefault(_table_split(file, wanted), []).append(file)
    others = splits.pop(None, [])
    if not splits:
        return {"train": others}
    if others and labelled:
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
    stem = name[: name.lower().rindex(ending_of(name))]
    if shard := SHARD.fullmatch(stem):
        stem = shard[1]
    if role := role_of(stem, wanted):
        return role
    roles = roles_in(stem)
    if len(roles) > 1:
        raise FolderError(f"the name of {file.name!r} has words of several splits: rename it to one of them")
    return next(iter(roles), stem if shard and file.parts[-2:-1] == ("data",) else None)


def _card_names_files(root: Path) -> bool:
    """Whether the folder's README.md, as the card of a Hub data set, says which files make which split."""
    try:
        card = huggingface_hub.metadata_load(root / "README.md") or {}
    except (OSError, ValueError):
        return False
    configs = card.get("configs") if isinstance(card, dict) else None
    return any(isinstance(config, dict) and "data_files" in config for config in configs or ())


def _nothing(folder: Folder) -> str:
    if foreign := folder.of_kind("foreign"):
        return f"there is no picture that can be read ({summary(foreign)})"
    archives = [file for file in folder.files if "archives" in file.reason]
    if archives:
        return f"there are no pictures, but archives such as {archives[0].name!r}: unpack them"
    if scripts := [file for file in folder.files if file.parts[-1].endswith(".py")]:
        return (
            f"there are no pictures, but {scripts[0].name!r}: a script that loads data is not run; store what it "
            "loads as parquet files or as folders of images"
        )
    return "there is nothing to read: it has no images or parquet files"


def _streams(rows: datasets.DatasetDict) -> datasets.IterableDatasetDict:
    """Return rows as streams that are shuffled row by row, and know how many they are."""
    streams = datasets.IterableDatasetDict()
    for split, part in rows.items():
        plain = part.cast_column("image", datasets.Image(decode=False))
        streams[split] = datasets.IterableDataset.from_generator(
            _each, features=plain.features, gen_kwargs={"rows": plain, "numbers": list(range(len(plain)))}
        )
        streams[split].info.splits = datasets.SplitDict({split: datasets.SplitInfo(split, num_examples=len(plain))})
    return streams


def _each(rows: datasets.Dataset, numbers: list[int]) -> Iterator[dict[str, Any]]:
    for number in numbers:
        yield rows[number]
