"""Which picture of a folder an annotation means that names it by a file name."""

from __future__ import annotations

from collections import defaultdict

import datasets

from hf_compress.data.folders import File, Folder, FolderError
from hf_compress.data.layout import role_of, roles_in


class NamedPictures:
    """The pictures of a folder, by their file names."""

    def __init__(self, folder: Folder):
        self.by_name: dict[str, list[File]] = defaultdict(list)
        for file in folder.of_kind("picture"):
            for name in {file.parts[-1], _stem(file.parts[-1])}:
                self.by_name[name].append(file)

    def find(self, name: str, annotation: File, split: str) -> File | None:
        """Return the picture of a name, which may have folders and may lack its ending; None where there is none.

        Of several, that in a folder called like the split, and then the nearest to the annotation.

        Raises:
            FolderError: it is not clear which one is meant.
        """
        parts = tuple(part for part in name.replace("\\", "/").split("/") if part not in ("", "."))
        inner = parts[:-1]
        found = [
            file
            for file in self.by_name.get(parts[-1] if parts else "", [])
            if not inner or file.parts[-len(parts) : -1] == inner
        ]
        if len(found) < 2:
            return found[0] if found else None
        scores = [(_in_split(file, split), _shared(file.parts, annotation.parts)) for file in found]
        best = [file for file, score in zip(found, scores, strict=True) if score == max(scores)]
        if len(best) > 1:
            raise FolderError(
                f"{annotation.name!r} names the picture {name!r}, which may be {best[0].name!r} or {best[1].name!r}: "
                "write its folder into the name"
            )
        return best[0]


def object_features(names: list[str]) -> datasets.Features:
    """Return the columns of annotated pictures, as the Hub's data sets of boxes have them."""
    return datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
                "category": datasets.List(datasets.ClassLabel(names=names)),
                "iscrowd": datasets.List(datasets.Value("bool")),
            },
        }
    )


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _in_split(file: File, split: str) -> bool:
    return any(role_of(part) == split or part == split or split in roles_in(part) for part in file.parts[:-1])


def _shared(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """Return how many folders two paths begin with alike."""
    count = 0
    for one, other in zip(first[:-1], second[:-1], strict=False):
        if one != other:
            break
        count += 1
    return count
