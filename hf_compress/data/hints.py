"""Labels that a user has, and that would not be read: what to do with them."""

from __future__ import annotations

import os

from hf_compress.data.folders import File, Folder, FolderError, some
from hf_compress.data.formats import ending_of
from hf_compress.data.layout import PathParts

SIDECARS = {".txt", ".json", ".xml"}
DETECTION = "which are boxes or captions and no classes: sort the pictures into one folder a class, or move them out"


def refuse_labels_elsewhere(folder: Folder, bases: dict[str, PathParts]) -> None:
    """Refuse pictures without class folders whose labels seem to lie in other files.

    Args:
        bases: parts of the path of each split's folder.

    Raises:
        FolderError: most pictures have a text file of their own, or a table lies beside them.
    """
    pictures = folder.of_kind("picture")
    places = [{file.parts[:-1] for file in pictures if file.parts[: len(base)] == base} for base in bases.values()]
    if any(len(place) > 1 for place in places):
        return
    stems = {_stem(file) for file in pictures}
    beside = [file for file in folder.files if ending_of(file.parts[-1]) in SIDECARS and file.kind != "none"]
    own = [file for file in beside if _stem(file) in stems]
    if len({_stem(file) for file in own}) * 2 >= len(stems):
        raise FolderError(f"the pictures have a file each such as {own[0].name!r}, {DETECTION}")
    for table in folder.of_kind("table"):
        ending = ending_of(table.parts[-1])
        if ending == ".json":
            raise FolderError(
                f"the pictures have no classes, but there are annotations in {table.name!r}, {DETECTION}"
            )
        if ending in (".csv", ".tsv"):
            raise FolderError(
                f"the pictures have no classes, but there is {table.name!r}: save it as metadata.csv in the folder "
                f"{_place(bases)}, with a column file_name (the paths of the pictures from there) and a column label, "
                "or move it out"
            )


def _place(bases: dict[str, PathParts]) -> str:
    return f"of each split ({some(map('/'.join, bases.values()))})" if len(bases) > 1 else "of the pictures"


def _stem(file: File) -> str:
    return os.path.splitext(file.parts[-1])[0]
