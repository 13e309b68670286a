"""Folders of pictures with their objects in JSON files as COCO has them, one a split."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import datasets

from hf_compress.data.addresses import opened
from hf_compress.data.folders import File, Folder, FolderError, LeftOut, some
from hf_compress.data.named_pictures import NamedPictures, object_features
from hf_compress.data.tables import table_splits
from hf_compress.sections.data import SourceSection

LISTS = ("images", "annotations", "categories")


def find_coco(folder: Folder) -> dict[File, dict[str, Any]]:
    """Return the JSON files of objects in a folder with pictures, and what each holds.

    Of COCO's own files those of `instances`; captions are no objects.
    """
    found = {}
    for file in folder.of_kind("table"):
        if file.ending == ".json" and (content := _objects(folder, file)) is not None:
            found[file] = content
    instances = {file: content for file, content in found.items() if file.parts[-1].startswith("instances")}
    return instances or found


def load_coco(
    folder: Folder, contents: dict[File, dict[str, Any]], section: SourceSection
) -> tuple[datasets.DatasetDict, list[LeftOut]]:
    """Return the pictures that COCO files name, with their objects: see `named_pictures.object_features`.

    The folders above a file, else its name, tell its split.

    Raises:
        FolderError: a split has several files, or one is damaged or names no picture that is there.
    """
    pictures, rows, used, missing = NamedPictures(folder), datasets.DatasetDict(), list(contents), []
    for split, files in table_splits(list(contents), section).items():
        if len(files) > 1:
            raise FolderError(
                f"{some(file.name for file in files)} all hold objects of the split '{split}': keep one, or put "
                "others under the name of another split"
            )
        try:
            rows[split], shown, lost = _split(folder, files[0], contents[files[0]], pictures, split)
        except (KeyError, TypeError, ValueError) as error:
            raise FolderError(
                f"{files[0].name!r} is not written as COCO's files are: {type(error).__name__} {error}"
            ) from None
        used += shown
        missing += lost
    left_out = folder.left_out(
        set(used), dict.fromkeys(folder.of_kind("picture", "table"), "files that no annotation names")
    )
    return rows, left_out + missing


def _objects(folder: Folder, file: File) -> dict[str, Any] | None:
    try:
        with opened(folder.path(file)) as source:
            content = json.load(source)
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in LISTS):
        return None
    first = next(iter(content["annotations"]), {"bbox": None})
    return content if isinstance(first, dict) and "bbox" in first else None


def _split(
    folder: Folder, file: File, content: dict[str, Any], pictures: NamedPictures, split: str
) -> tuple[datasets.Dataset, list[File], list[LeftOut]]:
    categories = sorted(content["categories"], key=lambda category: category["id"])
    index = {category["id"]: number for number, category in enumerate(categories)}
    objects: dict[Any, dict[str, list[Any]]] = defaultdict(lambda: {"bbox": [], "category": [], "iscrowd": []})
    for annotation in content["annotations"]:
        own = objects[annotation["image_id"]]
        own["bbox"].append([float(number) for number in annotation["bbox"]])
        own["category"].append(index[annotation["category_id"]])
        own["iscrowd"].append(bool(annotation.get("iscrowd", 0)))
    named = sorted(content["images"], key=lambda image: str(image["file_name"]))
    found = [(image, pictures.find(str(image["file_name"]), file, split)) for image in named]
    there = [(image, picture) for image, picture in found if picture is not None]
    if not there:
        raise FolderError(f"none of the {len(named)} pictures that {file.name!r} names is in the folder")
    lost = [image["file_name"] for image, picture in found if picture is None]
    columns = {
        "image": [folder.path(picture) for _, picture in there],
        "objects": [objects[image["id"]] for image, _ in there],
    }
    rows = datasets.Dataset.from_dict(columns, features=object_features([str(each["name"]) for each in categories]))
    reason = f"pictures that {file.name!r} names and that are not in the folder"
    return rows, [picture for _, picture in there], [LeftOut(reason, len(lost), str(lost[0]))] if lost else []
