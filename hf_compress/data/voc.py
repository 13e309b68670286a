"""Folders of pictures with a file of objects each as Pascal VOC has them."""

from __future__ import annotations

from xml.etree import ElementTree

import datasets

from hf_compress.data.addresses import opened
from hf_compress.data.folders import File, Folder, FolderError, LeftOut
from hf_compress.data.layout import in_order, role_of, roles_in
from hf_compress.data.named_pictures import NamedPictures, object_features

FIRST = 1  # VOC counts pixels from 1, and a box ends with its last pixel
CORNERS = ("xmin", "ymin", "xmax", "ymax")
Objects = dict[str, list]


def find_voc(folder: Folder) -> dict[File, ElementTree.Element]:
    """Return the files of objects in a folder, and what each holds."""
    found = {}
    for file in folder.files:
        if file.ending == ".xml" and file.kind == "other" and (root := _annotation(folder, file)) is not None:
            found[file] = root
    return found


def load_voc(
    folder: Folder, annotations: dict[File, ElementTree.Element]
) -> tuple[datasets.DatasetDict, list[LeftOut]]:
    """Return the pictures that VOC files belong to, with their objects: see `named_pictures.object_features`.

    Lists in `ImageSets/Main` (`train.txt`, `val.txt`, `test.txt`), else the folders above a file, tell its split.
    Objects that are `difficult` are a crowd: VOC's own measure leaves them out, too.

    Raises:
        FolderError: a file is damaged, or none has a picture.
    """
    lists, pictures = _lists(folder), NamedPictures(folder)
    rows: dict[str, list[tuple[File, Objects]]] = {}
    unlisted = [file for file in annotations if lists and _stem(file) not in lists]
    alone = []
    for file, root in annotations.items():
        for split in lists.get(_stem(file), []) if lists else [_split_of(file)]:
            picture = pictures.find(root.findtext("filename") or "", file, split)
            picture = picture or pictures.find(_stem(file), file, split)
            if picture is None:
                alone.append(file)
            else:
                rows.setdefault(split, []).append((picture, _objects(file, root)))
    if not rows:
        raise FolderError(
            f"none of the {len(annotations)} files of objects such as {next(iter(annotations)).name!r} has a picture"
        )
    names = sorted({name for part in rows.values() for _, objects in part for name in objects["category"]})
    made = {split: _dataset(folder, sorted(part, key=lambda row: row[0]), names) for split, part in rows.items()}
    reasons = dict.fromkeys(folder.of_kind("picture", "table"), "files that no annotation names")
    reasons |= dict.fromkeys(unlisted, "files of objects that no list of ImageSets/Main names")
    reasons |= dict.fromkeys(alone, "files of objects without a picture")
    used = {picture for part in rows.values() for picture, _ in part} | annotations.keys() - {*alone, *unlisted}
    return datasets.DatasetDict(in_order(made)), folder.left_out(used, reasons)


def _annotation(folder: Folder, file: File) -> ElementTree.Element | None:
    try:
        with opened(folder.path(file)) as source:
            root = ElementTree.parse(source).getroot()
    except (OSError, ElementTree.ParseError, ValueError):
        return None
    return root if root.tag == "annotation" else None


def _objects(file: File, root: ElementTree.Element) -> Objects:
    objects: Objects = {"bbox": [], "category": [], "iscrowd": []}
    for item in root.iter("object"):
        name, box = (item.findtext("name") or "").strip(), item.find("bndbox")
        try:
            left, top, right, bottom = (float(box.findtext(corner)) for corner in CORNERS)
        except (AttributeError, TypeError, ValueError):
            raise FolderError(
                f"{file.name!r} has an object '{name}' whose box lacks one of {', '.join(CORNERS)}"
            ) from None
        if not name:
            raise FolderError(f"{file.name!r} has an object without name: add it, or move the file out of the folder")
        left, top = max(left - FIRST, 0), max(top - FIRST, 0)
        objects["bbox"].append([left, top, right - left, bottom - top])
        objects["category"].append(name)
        objects["iscrowd"].append((item.findtext("difficult") or "0").strip() == "1")
    return objects


def _lists(folder: Folder) -> dict[str, list[str]]:
    """Return the splits of each picture, by the stem of its name, as the lists of `ImageSets/Main` say."""
    found: dict[str, list[str]] = {}
    for file in folder.files:
        split = role_of(_stem(file))
        if split and file.ending == ".txt" and file.parts[-3:-1] == ("ImageSets", "Main"):
            with opened(folder.path(file)) as source:
                for line in source.read().decode(errors="replace").splitlines():
                    if line.strip():
                        found.setdefault(line.split()[0], []).append(split)
    return found


def _split_of(file: File) -> str:
    roles = [role for part in file.parts[:-1] for role in sorted(roles_in(part))]
    return roles[-1] if roles else "train"


def _stem(file: File) -> str:
    return file.parts[-1].rpartition(".")[0]


def _dataset(folder: Folder, part: list[tuple[File, Objects]], names: list[str]) -> datasets.Dataset:
    columns = {"image": [folder.path(picture) for picture, _ in part], "objects": [objects for _, objects in part]}
    return datasets.Dataset.from_dict(columns, features=object_features(names))
