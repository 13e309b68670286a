"""The plain values of a recipe or study: read from YAML, and set by key path."""

import os
from copy import deepcopy
from pathlib import Path
from typing import Any

from hf_compress.ground.bounded_yaml import MOST_CHARACTERS, MOST_LEVELS, read_yaml
from hf_compress.ground.errors import UsageError, shown
from hf_compress.ground.files import read_text, split_revision, user_path
from hf_compress.ground.registry import did_you_mean
from hf_compress.ground.shipped import shipped_folders

NAMED_BY = {"data": "path", "unlabelled": "path", "deploy": "to"}
"""The keys that a string stands for; that of models is `model`."""


def read_recipe(source: str | Path) -> Any:
    """Return the plain values of a recipe or study: a path, or the name of a shipped one.

    Raises:
        UsageError: the file is missing or not YAML.
    """
    path = _find(source)
    try:
        return read_yaml(read_text(path, MOST_CHARACTERS))
    except ValueError as error:
        raise UsageError(f"recipe {path} is not valid YAML: {error}") from None


def read_single(source: str | Path) -> Any:
    """Return the plain values of a recipe; UsageError where it is a study, too."""
    values = read_recipe(source)
    if is_study(values):
        raise UsageError(f"'{source}' is a study of several runs: `hf-compress run` and `Study.load` take it")
    return values


def is_study(values: Any) -> bool:
    """Tell a study, which has several `runs`, from a recipe."""
    return isinstance(values, dict) and "runs" in values


def overridden(values: dict[str, Any], overrides: dict[str, Any] | None) -> dict[str, Any]:
    """Return a copy of plain values with those of `overrides` set; see `Recipe.load`."""
    values = deepcopy(values)
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    return values


def with_model(values: Any, section: str, name: str) -> tuple[Any, list[str]]:
    """Put another model into plain values, without what belonged to the one that was there.

    Args:
        section: `teacher` or `student`; in a `chain`, its first or last model.
        name: ID or ID@REVISION.

    Returns:
        A copy of the values, and the keys that were left out. How a teacher is trained stays.
    """
    values = deepcopy(values)
    if not isinstance(values, dict):
        return values, []
    chain = values.get("chain")
    place, key = (chain, {"teacher": 0, "student": -1}[section]) if chain else (values, section)
    before = place[key] if chain else values.get(section)
    before = before if isinstance(before, dict) else {"model": before}
    model, revision = split_revision(name)
    named = {"model": model} | ({"revision": revision} if revision else {})
    if named.items() <= before.items():
        return values, []
    kept = {option: before[option] for option in before.keys() & {"finetune"}}
    place[key] = named | kept
    return values, [option for option in before if option not in named.keys() | kept.keys()]


def with_data(values: Any, path: str) -> tuple[Any, list[str]]:
    """Put another data set into plain values, without the commit and the configuration of the one that was there.

    Returns:
        A copy of the values, and the keys that were left out. Columns, splits and how images are shown stay.
    """
    if not isinstance(values, dict):
        return values, []
    before = values.get("data")
    before = before if isinstance(before, dict) else {"path": before}
    dropped = [key for key in ("revision", "name") if before.get(key) is not None and before.get("path") != path]
    kept = {key: value for key, value in before.items() if key not in dropped}
    return deepcopy(values | {"data": kept | {"path": path}}), dropped


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that run by name."""
    return {path.stem: path for folder in shipped_folders("recipes") for path in sorted(folder.glob("*.yaml"))}


def _find(source: str | Path) -> Path:
    path = user_path(source)
    if os.path.isfile(path):
        return path
    shipped = shipped_recipes()
    if str(source) in shipped:
        return shipped[str(source)]
    raise UsageError(f"no recipe file or shipped recipe {shown(str(source))}{did_you_mean(str(source), shipped)}")


def _override(values: dict, key: str, value: Any) -> None:
    """Set `value` at the dotted path `key`; `steps.prune.amount` addresses the only prune step."""
    node: Any = values
    *parents, last = key.split(".")
    if not last or "" in parents:
        raise UsageError(f"cannot set {shown(key)}: a part of the key is empty")
    if len(parents) > MOST_LEVELS:
        raise UsageError(f"cannot set {shown(key)}: it goes more than {MOST_LEVELS} levels deep")
    for depth, part in enumerate(parents):
        node = _child(node, part, key, within=parents[depth - 1] if depth else "")
        if not isinstance(node, dict | list):
            raise UsageError(f"cannot set {shown(key)}: {shown('.'.join(parents[: depth + 1]))} is a single value")
    if isinstance(node, list):
        node[_list_index(node, last, key)] = value if last.isdecimal() else {last: value}
    else:
        node[last] = value


def _child(node: dict | list, part: str, key: str, within: str) -> Any:
    """Return what `part` addresses; a section that is left out, or said by a string, becomes a mapping.

    Args:
        within: the key under which the node is found.
    """
    if isinstance(node, list):
        index = _list_index(node, part, key)
        if isinstance(node[index], str):
            node[index] = {node[index]: {}} if within == "steps" else {NAMED_BY.get(within, "model"): node[index]}
        if not isinstance(node[index], dict) or part not in node[index]:
            return node[index]
        node = node[index]
    if isinstance(node.get(part), str):
        node[part] = {NAMED_BY.get(part, "model"): node[part]}
    if node.get(part) is None:
        node[part] = {}
    return node[part]


def _list_index(items: list, part: str, key: str) -> int:
    if part in map(str, range(len(items))):
        return int(part)
    matches = [i for i, item in enumerate(items) if item == part or (isinstance(item, dict) and part in item)]
    if len(matches) != 1:
        found = "no step" if not matches else "more than one step"
        raise UsageError(f"cannot set {shown(key)}: {found} {shown(part)}; use a number from 0 to {len(items) - 1}")
    return matches[0]
