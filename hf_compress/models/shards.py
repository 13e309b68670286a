"""Which files of weights a model names, before transformers reads them: all must lie in its own folder."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

from transformers import PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, cached_file

from hf_compress.ground.errors import RunError


def refuse_outside(name: str, source: str, config: PretrainedConfig, revision: Any) -> None:
    """Look at the path that a config names and at those in the index of a checkpoint in parts.

    Args:
        name: of the model, for the message.
        source: folder or Hub id.
        config: of the model.
        revision: of the repository; what is fetched from there lies in the cache for `from_pretrained`.

    Raises:
        RunError: one is absolute, or leads to a parent folder.
    """
    chosen = getattr(config, "transformers_weights", None)
    _refuse(name, "config.json", [chosen] if chosen else [])

    def file(path: str) -> str | None:
        return cached_file(source, path, revision=revision, _raise_exceptions_for_missing_entries=False)

    if chosen or not file(SAFE_WEIGHTS_NAME):
        for index in [chosen] if chosen else [SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME]:
            if index.endswith(".index.json") and (found := file(index)):
                _refuse(name, index, _parts(Path(found)))


def _parts(index: Path) -> list[Any]:
    """Return the file names in an index; none where it is damaged, which transformers tells."""
    try:
        return list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def _refuse(name: str, where: str, paths: list[Any]) -> None:
    for path in paths:
        if not isinstance(path, str) or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise RunError(f"{name} cannot be loaded: its {where} names weights outside its own folder: {path!r}")
