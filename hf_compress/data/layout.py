"""Which pictures of a folder belong to which split and which class."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from hf_compress.checkpoint.labels import MOST_LABELS
from hf_compress.data.folders import File, Folder, FolderError, reasons_in_words, shown_path, some
from hf_compress.data.splits import USUAL_NAMES
from hf_compress.sections.data import SourceSection, UnlabelledSection

PathParts = tuple[str, ...]
OTHER = "other"  # images without labels beside the splits
MOVE = "rename it to a split (train, validation, test), name it in 'data.splits', or move it out of the folder"
STRAY = "move them into class folders, or out of the folder"


def role_of(name: str, wanted: Iterable[str] = ()) -> str | None:
    """Return the split that a name stands for: one that the recipe names, or a usual one, whatever its case."""
    if name in wanted:
        return name
    return next((role for role, names in USUAL_NAMES.items() if name.lower() in names), None)


def in_order(splits: dict[str, Any]) -> dict[str, Any]:
    """Return training, validation and test first, then others by name."""
    usual = [role for role in USUAL_NAMES if role in splits]
    return {split: splits[split] for split in [*usual, *sorted(splits.keys() - set(usual))]}


def roles_in(text: str) -> set[str]:
    """Return the splits whose usual names are words of a text."""
    return {role for word in re.split("[^a-z]+", text.lower()) if (role := role_of(word))}


def find_splits(folder: Folder, section: SourceSection) -> dict[str, PathParts]:
    """Decide by the folders of the top level alone which are splits.

    Where all of them have the name of a split, they are splits; where one has not, all are classes if they hold
    pictures themselves. A single folder around everything is looked into first. Where no classes are wanted, no
    folder is in the way, and all is one split if none is named.

    Returns:
        Parts of the path of each split's folder.

    Raises:
        FolderError: folders that are no splits lie beside splits, two folders are the same split, or one is empty.
    """
    wanted, labelled = section.wanted_splits, section.wants_classes
    if isinstance(section, UnlabelledSection) and not wanted:
        return {"train": ()}
    pictures = folder.of_kind("picture", "foreign")
    base = _around(pictures, wanted)
    depth = len(base)
    tops = sorted({file.parts[depth] for file in pictures if len(file.parts) > depth + 1})
    roles = {top: role for top in tops if (role := role_of(top, wanted))}
    others = [top for top in tops if top not in roles]
    if not roles:
        _refuse_nearly_splits(pictures, base, tops, labelled)
        return {"train": base}
    stray = [file.name for file in pictures if file.parts[:-1] == base and file.kind == "picture"]
    if not labelled and (others or stray):
        return in_order({role: (*base, top) for top, role in roles.items()} | {OTHER: base})
    if others:
        if not _mixed_with_splits(pictures, base, roles, others):
            return {"train": base}
        raise FolderError(
            f"{some(others)} {'lies' if len(others) == 1 else 'lie'} beside the splits {some(roles)}: {MOVE}"
        )
    if stray:
        raise FolderError(
            f"pictures such as {stray[0]!r} ({len(stray)} in all) lie beside the splits {some(roles)}: {STRAY}"
        )
    for role, count in Counter(roles.values()).items():
        if count > 1:
            same = some(top for top in roles if roles[top] == role)
            raise FolderError(f"the folders {same} are all the split '{role}': join them, or rename all but one")
    for top in (parts[-1] for parts in folder.folders if len(parts) == depth + 1 and parts[:depth] == base):
        if labelled and top not in roles and role_of(top, wanted):
            raise _without_pictures(folder, (*base, top), "split")
    return in_order({role: (*base, top) for top, role in roles.items()})


def lay_out(
    folder: Folder, bases: dict[str, PathParts], labelled: bool
) -> tuple[dict[str, list[File]], list[str], dict[str, list[int | None]]]:
    """Decide for every picture which class it belongs to, if classes are wanted (`labelled`).

    Where two class folders have the same name (`Apple/healthy`, `Grape/healthy`), all classes are called by their
    paths.

    Returns:
        For each split its pictures, sorted by their paths; the sorted names of the classes, none where there are no
        class folders; and for each split the class indices of its pictures, None where it has no class folders.

    Raises:
        FolderError: pictures would be without a class although there are class folders, or these are too many.
    """
    pictures = {split: pictures_under(folder, split, bases) for split in bases}
    for split, found in pictures.items():
        if labelled and not found:
            raise _without_pictures(folder, bases[split], "split")
    paths = {
        split: _class_paths(folder, bases[split], found) if labelled else None for split, found in pictures.items()
    }
    _refuse_different_depths(paths)
    every = sorted({path for found in paths.values() for path in found or ()})
    if len(every) > MOST_LABELS:
        raise FolderError(f"there are {len(every):,} class folders, which is more than {MOST_LABELS:,}: join some")
    by_path = len({path[-1] for path in every}) < len(every)
    name = {path: "/".join(path) if by_path else path[-1] for path in every}
    if len(every) == 1:
        raise FolderError(
            f"there is one class folder only, {shown_path(every[0])}: add another class, or give its own path for "
            "images without labels"
        )
    classes = sorted(name.values())
    index = {label: number for number, label in enumerate(classes)}
    labels = {
        split: [None] * len(pictures[split]) if found is None else [index[name[path]] for path in found]
        for split, found in paths.items()
    }
    return pictures, classes, labels


def _around(pictures: list[File], wanted: Iterable[str]) -> PathParts:
    """Return the parts of the innermost single folder around everything, above splits and classes."""
    holding = {file.parts[:-1] for file in pictures}
    base: PathParts = ()
    while base not in holding:
        inside = {parts[: len(base) + 1] for parts in holding}
        if len(inside) != 1:
            break
        (only,) = inside
        if role_of(only[-1], wanted) or only in holding:
            break
        base = only
    return base


def _mixed_with_splits(pictures: list[File], base: PathParts, roles: dict[str, str], others: list[str]) -> bool:
    """Whether folders with names of splits are splits, although other folders lie beside them.

    They are classes if they hold pictures themselves, unless they look like a whole division.
    """
    depth = len(base)
    if any(file.parts[depth] in roles and len(file.parts) > depth + 2 for file in pictures):
        return True
    division = "train" in roles.values() and (len(set(roles.values())) > 1 or len(others) == 1)
    return division or all(roles_in(re.split("[^a-z]", top.lower())[0]) for top in others)


def _refuse_nearly_splits(pictures: list[File], base: PathParts, tops: list[str], labelled: bool) -> None:
    """Refuse `train_images/` and `test_images/` that hold the same class folders, which are no four classes."""
    if not labelled or len(tops) < 2 or not any(map(roles_in, tops)):
        return
    inner: dict[str, set[str]] = {top: set() for top in tops}
    for file in pictures:
        if len(file.parts) > len(base) + 2:
            inner[file.parts[len(base)]].add(file.parts[len(base) + 1])
    if set.intersection(*inner.values()):
        raise FolderError(
            f"the folders {some(tops)} seem to be splits, as they hold the same class folders: call them train, "
            "validation and test, or name them in 'data.splits'"
        )


def pictures_under(folder: Folder, split: str, bases: dict[str, PathParts]) -> list[File]:
    """Return the pictures of a split; of one around others, what is in none of them."""
    base = bases[split]
    inner = [other for other in bases.values() if other != base and other[: len(base)] == base]
    found = [file for file in folder.under(base) if file.kind == "picture"]
    return [file for file in found if not any(file.parts[: len(other)] == other for other in inner)]


def _class_paths(folder: Folder, base: PathParts, pictures: list[File]) -> list[PathParts] | None:
    """Return the path of the class folder of every picture within a split; None where there are no class folders."""
    paths = [file.parts[len(base) : -1] for file in pictures]
    depths = Counter(map(len, paths))
    if set(depths) == {0}:
        return None
    if depths[0]:
        stray = [file.name for file in pictures if len(file.parts) == len(base) + 1]
        raise FolderError(
            f"pictures such as {stray[0]!r} ({len(stray)} in all) lie beside the class folders "
            f"{some({path[0] for path in paths if path})}: {STRAY}"
        )
    if len(depths) > 1:
        _, rarest = min((count, -depth) for depth, count in depths.items())
        culprit = min(path for path in paths if len(path) == -rarest)
        usual = max(depths, key=lambda depth: (depths[depth], -depth))
        raise FolderError(
            f"the class folders lie at different depths: {shown_path((*base, *culprit))} holds pictures, most others "
            f"lie {usual} folders deep; move its pictures to where the others are, or out of the folder"
        )
    (depth,) = depths
    holding = {path[:length] for path in set(paths) for length in range(1, depth + 1)}
    for parts in folder.folders:
        inner = parts[len(base) :]
        if parts[: len(base)] == base and 0 < len(inner) <= depth and inner not in holding:
            raise _without_pictures(folder, parts, "class")
    return paths


def _refuse_different_depths(paths: dict[str, list[PathParts] | None]) -> None:
    """Refuse splits whose class folders do not lie alike; held-out images may be without classes."""
    depths = {split: len(found[0]) for split, found in paths.items() if found}
    if len(set(depths.values())) > 1:
        told = " and ".join(f"{depth} folders deep in '{split}'" for split, depth in depths.items())
        raise FolderError(f"the class folders lie {told}: arrange all splits alike")
    if depths and "train" in paths and not paths["train"]:
        raise FolderError(
            f"the split 'train' has no class folders, but {some(depths)} has: sort its pictures into classes"
        )


def _without_pictures(folder: Folder, parts: PathParts, kind: str) -> FolderError:
    files = [file for file in folder.under(parts) if not file.reason.startswith("hidden")]
    why = f"holds no picture that can be read ({reasons_in_words(files)})"
    return FolderError(
        f"the {kind} folder {shown_path(parts)} {why if files else 'is empty: add images or remove the folder'}"
    )
