"""Data sets of pictures and masks: two columns of images, or two folders; and the names of their classes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from hf_compress.data.annotations import FoundLabels, Reader
from hf_compress.data.folders import File, Folder, FolderError, scan
from hf_compress.data.label_columns import nothing_known
from hf_compress.data.layout import in_order, role_of
from hf_compress.data.local import Source, refuse_labels_beside
from hf_compress.data.masks import VOID, look_at_masks
from hf_compress.data.sources import features_of, load_raw, undecoded
from hf_compress.ground.errors import RunError, UsageError, shown
from hf_compress.ground.files import read_json, user_path
from hf_compress.sections.data import DataSection, PicturesSection

NAMES = "id2label.json"
IMAGES = ("images", "image", "imgs", "img", "pictures", "photos", "jpegimages")
MASKS = ("masks", "mask", "labels", "annotations", "segmentationclass")
COLUMNS = dict.fromkeys(IMAGES, "image") | dict.fromkeys(MASKS, "label")
SORT = "put pictures into 'images/' and masks into 'masks/', or move it out"
IMAGE_COLUMNS = ("image", "images", "img", "picture", "pixel_values")
MASK_COLUMNS = ("label", "labels", "mask", "masks", "annotation", "segmentation", "semantic_segmentation")
logger = logging.getLogger(__name__)


class MaskReader(Reader):
    """Pictures with a mask each; those without one have no label."""

    def open(self, section):
        folder = user_path(section.path)
        if not os.path.isdir(folder):
            return load_raw(PicturesSection.of(section), "data")
        try:
            files = scan(Path(os.path.abspath(folder)))
            found = {kind: file for file, (kind, _) in told_by_folders(files.of_kind("picture")).items()}
            if found.keys() < {"image", "label"} and files.of_kind("metadata"):
                return load_raw(PicturesSection.of(section), "data")
            if "label" not in found:
                refuse_labels_beside(files, SORT)
            if "image" in found:
                return load_pairs(files, section)
            if "label" in found:
                mask = found["label"].name
                raise FolderError(f"{mask!r} seems to be a mask, but no folder is called 'images': {SORT}")
        except FolderError as error:
            raise UsageError(f"'data.path': in {shown(section.path)}, {error}") from None
        return load_raw(PicturesSection.of(section), "data")

    def image_column(self, rows, section):
        return columns_of(rows, section)[0]

    def read(self, source, image_column, section):
        column = columns_of(source.rows, section)[1]
        if column is None:
            return nothing_known(source.rows, section)
        masks, faults = look_at_masks(*(undecoded(source.rows, name) for name in (column, image_column)))
        if faults and section.on_corrupt == "stop":
            raise RunError(
                f"{section.path} has {len(faults)} masks that cannot be used, the first is {faults[0]}; "
                "'data.on_corrupt: skip'"
            )
        if faults:
            logger.warning(
                "%s: %d masks cannot be used, the first is %s; their pictures count as without labels",
                section.path, len(faults), faults[0],
            )  # fmt: skip
        highest = max((number for mask in masks if mask for number in mask.classes), default=-1)
        names = class_names(section, source)
        if names is not None and highest >= len(names):
            raise RunError(f"a mask in {section.path} has the class {highest}, but {NAMES} names {len(names)} classes")
        if max(highest + 1, len(names or ())) < 2:
            raise RunError(
                f"the masks of {section.path} show {'one class' if highest == 0 else 'no class'} beside {VOID}, which "
                "means no class: write the numbers of two classes or more, such as 0 and 1"
            )
        labels = np.array([-1 if mask is None else 0 for mask in masks])
        return FoundLabels(labels, names or [str(number) for number in range(highest + 1)], names is not None, masks)


def load_pairs(folder: Folder, section: DataSection) -> Source:
    """Return the pictures of folders `images` with the masks of folders `masks`, which have the same names.

    The split is the first folder of their paths that is called like one, above or below these: `images/train/`, or
    `train/images/`.

    Raises:
        FolderError: some pictures lie in splits and others do not, two have the same name, or nothing fits together.
    """
    found: dict[tuple[str, ...], dict[str, File]] = {}
    for file, (column, place) in told_by_folders(folder.of_kind("picture")).items():
        *folders, name = place
        pair = found.setdefault((*folders, os.path.splitext(name)[0]), {})
        if column in pair:
            raise FolderError(f"{pair[column].name!r} and {file.name!r} have one name: rename one")
        pair[column] = file
    pairs = {key: pair for key, pair in found.items() if "image" in pair}
    if len(pairs) < len(found) and not any("label" in pair for pair in pairs.values()):
        raise FolderError(f"no mask has the name of a picture: {SORT}")
    splits: dict[str | None, list[dict[str, File]]] = {}
    for key, pair in sorted(pairs.items()):
        role = next((role for part in key[:-1] if (role := role_of(part, section.wanted_splits))), None)
        splits.setdefault(role, []).append(pair)
    loose = splits.pop(None, [])
    if loose and splits:
        raise FolderError(
            f"{loose[0]['image'].name!r} lies in no split, but others do: move it into the folder of one (train, "
            "validation, test)"
        )
    names = [name for name in ("image", "label") if any(name in pair for pair in pairs.values())]
    features, rows = datasets.Features(dict.fromkeys(names, datasets.Image())), datasets.DatasetDict()
    for split, members in in_order(splits or {"train": loose}).items():
        columns = {
            column: [folder.path(pair[column]) if column in pair else None for pair in members] for column in features
        }
        rows[split] = datasets.Dataset.from_dict(columns, features=features)
    used = [file for pair in pairs.values() for file in pair.values()]
    used += [file for file in folder.files if file.parts == (NAMES,)]
    reasons = dict.fromkeys(folder.of_kind("picture"), "pictures without a partner in 'images/' or 'masks/'")
    return Source(rows, left_out=folder.left_out(used, reasons))


def columns_of(rows: datasets.DatasetDict, section: DataSection) -> tuple[str, str | None]:
    """Return the columns of pictures and of masks; None where there are no masks.

    They are found by their types and usual names, where the recipe does not name them.

    Raises:
        UsageError: it is not clear which is which, or what is named holds no images.
    """
    images = [name for name, feature in features_of(rows).items() if isinstance(feature, datasets.Image)]
    for key, wanted in (("image_column", section.image_column), ("label_column", section.label_column)):
        if wanted is not None and wanted not in images:
            raise UsageError(f"'data.{key}': {shown(wanted)} is no column of images; these are: {', '.join(images)}")
    picture = section.image_column or _only([name for name in images if name != section.label_column], IMAGE_COLUMNS)
    others = [name for name in images if name != picture]
    mask = section.label_column or (_only(others, MASK_COLUMNS) if others else None)
    if picture is None or (others and mask is None):
        raise UsageError(
            f"the data set has the image columns {', '.join(images) or '(none)'}: name that of the pictures in "
            "'data.image_column' and that of the masks in 'data.label_column'"
        )
    return picture, mask


def class_names(section: DataSection, source: Source) -> list[str] | None:
    """Return the names of the classes from `id2label.json` beside the data; None where there is none.

    Raises:
        RunError: it does not number the classes from 0.
    """
    file = user_path(section.path) / NAMES
    if not file.is_file():
        if source.commit is None:
            return None
        try:
            found = huggingface_hub.hf_hub_download(section.path, NAMES, repo_type="dataset", revision=source.commit)
        except LocalEntryNotFoundError:
            logger.warning("%s: whether it has a file %s is not known without a connection", section.path, NAMES)
            return None
        except EntryNotFoundError:
            return None
        file = Path(found)
    try:
        found = {int(number): str(name) for number, name in read_json(file).items()}
    except (ValueError, AttributeError):
        found = {}
    found.pop(VOID, None)
    if sorted(found) != list(range(len(found))) or not found:
        raise RunError(f'{NAMES} in {section.path} has to number the classes from 0: {{"0": "...", "1": "..."}}')
    source.left_out = [entry for entry in source.left_out if (entry.example, entry.count) != (NAMES, 1)]
    return [found[number] for number in range(len(found))]


def _only(names: list[str], usual: tuple[str, ...]) -> str | None:
    """Return the only name, or the only usual one; None where it is not clear."""
    known = [name for name in names if name.lower() in usual]
    return next((found[0] for found in (names, known) if len(found) == 1), None)


def told_by_folders(pictures: list[File]) -> dict[File, tuple[str, tuple[str, ...]]]:
    """Return of each picture in a folder `images` or `masks` which of both it is, and its path without that folder.

    Folders of such names count that lie beside one of the other kind; where none around a picture does, the innermost.
    """
    told = {
        file: [(depth, COLUMNS[part.lower()]) for depth, part in enumerate(file.parts[:-1]) if part.lower() in COLUMNS]
        for file in pictures
    }
    beside: dict[tuple[str, ...], set[str]] = {}
    for file, places in told.items():
        for depth, column in places:
            beside.setdefault(file.parts[:depth], set()).add(column)
    found = {}
    for file, places in told.items():
        paired = [(depth, column) for depth, column in places if len(beside[file.parts[:depth]]) > 1]
        for depth, column in (paired or places)[-1:]:
            found[file] = column, file.parts[:depth] + file.parts[depth + 1 :]
    return found
