"""A data set from the files of a folder: `datasets` gets a list of them, and decides about none."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub

from hf_compress.data.described import load_described
from hf_compress.data.folders import File, Folder, FolderError, LeftOut, reasons_in_words, scan, some
from hf_compress.data.layout import PathParts, find_splits, lay_out
from hf_compress.data.tables import find_tables, open_tables
from hf_compress.sections.data import SourceSection

MOST_SHARDS = 512  # of a stream: as many workers can read it
SIDECARS = {".txt", ".json", ".xml"}


@dataclass
class Source:
    """A data set as it was found.

    Attributes:
        rows: by split.
        files: the parquet files of each split, in the order of its rows, as paths or addresses; all under
            "" where nobody knows their splits, without a connection to the Hub.
        commit: of the Hub repository; None for what is not from the Hub.
        left_out: files that lie there and are not in `rows`.
    """

    rows: datasets.DatasetDict | datasets.IterableDatasetDict
    files: dict[str, list[str]] = field(default_factory=dict)
    commit: str | None = None
    left_out: list[LeftOut] = field(default_factory=list)


def source_of(builder: datasets.DatasetBuilder, streaming: bool, left_out: list[LeftOut] | None = None) -> Source:
    """Let a builder of `datasets` read its files."""
    if streaming:
        rows = builder.as_streaming_dataset()
    else:
        builder.download_and_prepare()
        rows = builder.as_dataset()
    files = builder.config.data_files if builder.name == "parquet" else {}
    return Source(rows, {split: list(map(str, own)) for split, own in files.items()}, left_out=left_out or [])


def load_folder(root: Path, section: SourceSection, streaming: bool) -> Source:
    """Return the data of a folder, as it was saved, as its card says, or else see `load_files`."""
    root = Path(os.path.abspath(root))
    if (root / "dataset_dict.json").exists() or (root / "state.json").exists():  # `save_to_disk` wrote it
        saved = datasets.load_from_disk(str(root))
        rows = saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict({"train": saved})
        if streaming:
            rows = datasets.IterableDatasetDict({split: part.to_iterable_dataset() for split, part in rows.items()})
        return Source(rows)
    if card_names_files(root):
        return source_of(datasets.load_dataset_builder(str(root), section.name), streaming)
    return load_files(scan(root), section, streaming)


def load_files(folder: Folder, section: SourceSection, streaming: bool) -> Source:
    """Return the data of the files of a folder, or of a repository of the Hub.

    Pictures (see `layout`), described by a `metadata.csv` where there is one; or files of which each holds many.

    Raises:
        FolderError: it is not clear what the pictures' splits or classes are, or some would be without a class.
    """
    if tables := find_tables(folder):
        builder, left_out = open_tables(folder, tables, section)
        return source_of(builder, streaming, left_out)
    if not folder.of_kind("picture"):
        raise FolderError(_why_nothing(folder))
    bases = find_splits(folder, section)
    if folder.of_kind("metadata"):
        rows, left_out = load_described(folder, bases, section)
    else:
        rows, left_out = _load_pictures(folder, bases, section)
    return Source(_streams(rows) if streaming else rows, left_out=left_out)


def _load_pictures(
    folder: Folder, bases: dict[str, PathParts], section: SourceSection
) -> tuple[datasets.DatasetDict, list[LeftOut]]:
    if section.wants_classes:
        _refuse_labels_elsewhere(folder, bases)
    pictures, classes, labels = lay_out(folder, bases, section.wants_classes)
    features = datasets.Features({"image": datasets.Image()})
    if classes:
        features["label"] = datasets.ClassLabel(names=classes)
    rows = datasets.DatasetDict()
    for split, files in pictures.items():
        columns = {"image": [folder.path(file) for file in files], "label": labels[split]}
        rows[split] = datasets.Dataset.from_dict({name: columns[name] for name in features}, features=features)
    return rows, folder.left_out(itertools.chain(*pictures.values()), {})


def _refuse_labels_elsewhere(folder: Folder, bases: dict[str, PathParts]) -> None:
    """Refuse pictures without class folders that have a text file each, or a table beside them: labels, it seems."""
    pictures = folder.of_kind("picture")
    places = [{file.parts[:-1] for file in pictures if file.parts[: len(base)] == base} for base in bases.values()]
    if not any(len(place) > 1 for place in places):
        place = f"of each split ({some(map('/'.join, bases.values()))})" if len(bases) > 1 else "of the pictures"
        refuse_labels_beside(
            folder,
            "sort the pictures into one folder a class, or move it out",
            f"save it as metadata.csv in the folder {place}, with a column file_name (the paths of the pictures from "
            "there) and a column label, or move it out",
        )


def refuse_labels_beside(folder: Folder, advice: str, of_table: str | None = None) -> None:
    """Refuse pictures of which at least half have a text file of their own, or that have a table beside them.

    Nothing is refused where metadata or a file of many pictures tells what they show.

    Args:
        advice: what to do.
        of_table: what to do with a CSV file, where that is something else.
    """
    stems = {_stem(file) for file in folder.of_kind("picture")}
    if not stems or folder.of_kind("metadata") or find_tables(folder):
        return
    beside = [file for file in folder.files if file.ending in SIDECARS and file.kind != "none"]
    own = [file for file in beside if _stem(file) in stems]
    if len({_stem(file) for file in own}) * 2 >= len(stems):
        raise FolderError(
            f"the pictures have a file each such as {own[0].name!r}, which tells what they show, and is not read: "
            f"{advice}"
        )
    for table in folder.of_kind("table"):
        if table.ending == ".json":
            raise FolderError(f"there are annotations in {table.name!r}, which are not read: {advice}")
        if table.ending in (".csv", ".tsv"):
            raise FolderError(
                f"what the pictures show is not known, but there is {table.name!r}: {of_table or advice}"
            )


def _stem(file: File) -> str:
    return os.path.splitext(file.parts[-1])[0]


def card_names_files(root: Path) -> bool:
    """Whether a folder's README.md, as the card of a Hub data set, says which files make which split."""
    try:
        card = huggingface_hub.metadata_load(root / "README.md") or {}
    except (OSError, ValueError):
        return False
    configs = card.get("configs") if isinstance(card, dict) else None
    return any(isinstance(config, dict) and "data_files" in config for config in configs or ())


def _why_nothing(folder: Folder) -> str:
    if foreign := folder.of_kind("foreign"):
        return f"there is no picture that can be read ({reasons_in_words(foreign)})"
    if archives := [file for file in folder.files if "archives" in file.reason]:
        return f"there are no pictures, but archives such as {archives[0].name!r}: unpack them"
    if scripts := [file for file in folder.files if file.parts[-1].endswith(".py")]:
        return (
            f"there are no pictures, but {scripts[0].name!r}: a script that loads data is not run; store what it "
            "loads as parquet files or as folders of images"
        )
    return "there is nothing to read: it has no images or parquet files"


def _streams(rows: datasets.DatasetDict) -> datasets.IterableDatasetDict:
    """Return rows as streams that know how many they are, in shards that each go through all classes."""
    streams = datasets.IterableDatasetDict()
    for split, part in rows.items():
        plain = part
        for name in [name for name, feature in part.features.items() if isinstance(feature, datasets.Image)]:
            plain = plain.cast_column(name, datasets.Image(decode=False))
        shards = min(MOST_SHARDS, len(plain))
        numbers = [range(first, len(plain), shards) for first in range(shards)]
        streams[split] = datasets.IterableDataset.from_generator(
            _each, features=plain.features, gen_kwargs={"rows": plain, "shards": numbers}
        )
        streams[split].info.splits = datasets.SplitDict({split: datasets.SplitInfo(split, num_examples=len(plain))})
    return streams


def _each(rows: datasets.Dataset, shards: list[range]) -> Iterator[dict[str, Any]]:
    for shard in shards:
        for number in shard:
            yield rows[number]
