"""The plain values of a recipe or study: read from YAML, and set by key path."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from hf_compress.errors import UsageError
from hf_compress.registry import did_you_mean
from hf_compress.shipped import shipped_folders


def read_recipe(source: str | Path) -> Any:
    """Return the plain values of a recipe or study: a path, or the name of a shipped one.

    Raises:
        UsageError: the file is missing or not YAML.
    """
    path = _find(source)
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"recipe {path} is not valid YAML: {' '.join(str(error).split())}") from None


def is_study(values: Any) -> bool:
    """Tell a study, which has several `runs`, from a recipe."""
    return isinstance(values, dict) and "runs" in values


def overridden(values: dict[str, Any], overrides: dict[str, Any] | None) -> dict[str, Any]:
    """Return a copy of plain values with those of `overrides` set; see `Recipe.load`."""
    values = deepcopy(values)
    for key, value in (overrides or {}).items():
        _override(values, key, value)
    return values


def shipped_recipes() -> dict[str, Path]:
    """Return the recipes that run by name."""
    return {path.stem: path for folder in shipped_folders("recipes") for path in sorted(folder.glob("*.yaml"))}


def _find(source: str | Path) -> Path:
    path = Path(source).expanduser()
    if path.is_file():
        return path
    shipped = shipped_recipes()
    if str(source) in shipped:
        return shipped[str(source)]
    raise UsageError(f"no recipe file or shipped recipe '{source}'{did_you_mean(str(source), shipped)}")


def _override(values: dict, key: str, value: Any) -> None:
    """Set `value` at the dotted path `key`; `steps.prune.amount` addresses the only prune step."""
    node: Any = values
    *parents, last = key.split(".")
    for depth, part in enumerate(parents):
        if isinstance(node, list):
            items, node = node, node[index := _list_index(node, part, key)]
            if isinstance(node, str):
                node = items[index] = {node: {}} if parents[depth - 1] == "steps" else {"model": node}
            if isinstance(node, dict) and part in node:
                node = node[part]
            continue
        if isinstance(node.get(part), str):
            node[part] = {"path" if part == "data" else "model": node[part]}
        if node.get(part) is None:
            node[part] = {}
        node = node[part]
        if not isinstance(node, dict | list):
            raise UsageError(f"cannot set '{key}': '{'.'.join(parents[: depth + 1])}' is a single value")
    if isinstance(node, list):
        node[_list_index(node, last, key)] = value if last.isdigit() else {last: value}
    else:
        node[last] = value


def _list_index(items: list, part: str, key: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    matches = [i for i, item in enumerate(items) if item == part or (isinstance(item, dict) and part in item)]
    if len(matches) != 1:
        found = "no step" if not matches else "more than one step"
        raise UsageError(f"cannot set '{key}': {found} '{part}'; use a number from 0 to {len(items) - 1}")
    return matches[0]
