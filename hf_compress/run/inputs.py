"""What a recipe reads from this machine, and the outputs that would damage it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hf_compress.ground.errors import UsageError, shown
from hf_compress.ground.files import missing_folder, user_path
from hf_compress.models.students import STUDENTS
from hf_compress.run.recipe import Recipe
from hf_compress.sections.models import AUTO

READ = {"model", "pretrained", "path", "sensitivity", "template"}
WORDS = {"teacher", "digits", AUTO}


def local_inputs(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    """Find the keys of a recipe that name a folder or file that exists, and that with links resolved."""
    for key, value in leaves(recipe.model_dump(mode="json")):
        if key.rpartition(".")[2] in READ and isinstance(value, str) and value not in WORDS and value not in STUDENTS:
            place = user_path(value)
            if os.path.exists(place):
                yield key, Path(os.path.realpath(place))


def refuse_missing(recipe: Recipe) -> None:
    """Refuse a recipe that names a folder of a model or of images which is not there, before anything is loaded.

    Raises:
        UsageError: names the key.
    """
    for key, value in leaves(recipe.model_dump(mode="json")):
        kind = {"model": "model folder", "path": "folder"}.get(key.rpartition(".")[2])
        if kind and isinstance(value, str) and missing_folder(value):
            raise UsageError(f"'{key}': there is no {kind} {shown(value)}")


def refuse_local(recipe: Recipe) -> None:
    """Refuse a recipe that reads or needs files of this machine, because another one will run it.

    Raises:
        UsageError: names the key.
    """
    if recipe.track is not None:
        raise UsageError(
            f"'track: {recipe.track}' keeps files beside the run, or logs in, and a rented machine has no place for "
            "either: leave it out by --set track=null; the published card draws the trainings"
        )
    for key, place in local_inputs(recipe):
        on_the_hub = key.rpartition(".")[2] in ("model", "pretrained", "path")
        what = "put it on the Hub (`hf upload`) and name it there, user/name" if on_the_hub else "leave it out"
        raise UsageError(f"'{key}' is on this machine ({place}), where a rented one does not see it: {what}")


def refuse_overlap(output: Path, recipe: Recipe) -> None:
    """Keep an output apart from models and data.

    Raises:
        UsageError: it is, contains or lies in what the recipe reads; names the key.
    """
    place = Path(os.path.realpath(output))
    for key, read in local_inputs(recipe):
        if relation := _relation(place, read):
            raise UsageError(f"output '{output}' {relation} the recipe's '{key}' ({read}): choose another --output")


def refuse_own_place(output: Path) -> None:
    """Refuse to move or replace the folder in which the process or the user's files are.

    Raises:
        UsageError: the output is or contains the current or the home folder.
    """
    place = Path(os.path.realpath(output))
    for name, at in (("current", Path.cwd()), ("home", user_path("~"))):
        if (relation := _relation(place, Path(os.path.realpath(at)))) in ("is", "contains"):
            raise UsageError(f"output '{output}' {relation} the {name} folder: choose another --output")


def _relation(place: Path, other: Path) -> str | None:
    if place == other:
        return "is"
    return "contains" if place in other.parents else "lies in" if other in place.parents else None


def leaves(node: Any, path: str = "") -> list[tuple[str, Any]]:
    """Return the single values of nested mappings and lists, by dotted path."""
    if isinstance(node, dict) and node:
        children = node.items()
    elif isinstance(node, list) and any(isinstance(item, dict) for item in node):
        children = enumerate(node)
    else:
        return [(path, node)]
    return [leaf for key, child in children for leaf in leaves(child, f"{path}.{key}" if path else str(key))]
