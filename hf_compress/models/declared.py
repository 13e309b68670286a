"""What a model's files declare, before anything of that size is built, or read from elsewhere."""

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

from transformers import PretrainedConfig
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, WEIGHTS_INDEX_NAME, cached_file

from hf_compress.checkpoint.labels import MOST_LABELS
from hf_compress.ground.errors import RunError, shown
from hf_compress.ground.memory import machine_bytes

LABELS = re.compile("num_labels|num_classes")
LAYER_KEYS = re.compile(".*(layers|depths?|blocks)")
SIZES = re.compile("(?!vocab).*(size|sizes|dims?|channels|heads)")
WIDTH_KEYS = re.compile(".*(hidden|embed|embedding)_?(sizes?|dims?|channels)|d_model|dims?")
MOST_LAYERS, MOST_SIZE, MOST_SIDE = 2_000, 100_000, 8192


def refuse_huge(name: str, values: Any) -> None:
    """Raise RunError for numbers in config.json (`values`) that would take all memory or time, alone or together."""
    found: dict[str, list[float]] = {}
    names = {}
    if isinstance(values, dict):
        names = {key: values[key] for key in ("id2label", "label2id") if key in values}
        values = {key: value for key, value in values.items() if key not in names}
    for key, number in _numbers(values):
        found.setdefault(key, []).append(number)
    layers = {key: numbers for key, numbers in found.items() if LAYER_KEYS.fullmatch(key)}
    widths = {key: numbers for key, numbers in found.items() if WIDTH_KEYS.fullmatch(key)}
    counts = [
        *((key, max(numbers), MOST_LABELS) for key, numbers in found.items() if LABELS.fullmatch(key)),
        *((key, len(labels), MOST_LABELS) for key, labels in names.items() if isinstance(labels, dict)),
        *((key, sum(numbers), MOST_LAYERS) for key, numbers in layers.items()),
        *((key, max(numbers), MOST_SIZE) for key, numbers in found.items() if SIZES.fullmatch(key)),
    ]
    for key, number, most in counts:
        if number > most:
            raise RunError(
                f"{name} cannot be loaded: its config.json declares {key} {shown(number)}, which is more than {most:,}"
            )
    weights = max((_weights(depth, width) for depth in layers.values() for width in widths.values()), default=0)
    if 4 * weights > machine_bytes():
        raise RunError(
            f"{name} cannot be loaded: its config.json declares layers of about {weights:.1e} weights, "
            f"{4 * weights / 1e9:,.0f} GB, and this machine has {machine_bytes() / 1e9:,.0f} GB of memory"
        )


def refuse_huge_pictures(name: str, processor: Any) -> None:
    """Raise RunError for sizes of an image processor whose pictures would take all memory."""
    for key, sizes in processor.to_dict().items():
        for side, number in _numbers(sizes, key) if key in ("size", "crop_size", "pad_size") else ():
            if number > MOST_SIDE:
                raise RunError(
                    f"{name} cannot be loaded: its image processor makes pictures of {side} {shown(number)}, "
                    f"{12 * number**2 / 1e9:,.1f} GB each (3 channels, float32); the most is {MOST_SIDE:,}"
                )


def refuse_outside(name: str, source: str, config: PretrainedConfig, revision: Any) -> None:
    """Raise RunError where config.json, or the index of a checkpoint in parts, names weights outside their own folder.

    What is fetched from `source`, a folder or Hub id, lies in the cache for `from_pretrained`.
    """
    chosen = getattr(config, "transformers_weights", None)
    _refuse_paths(name, "config.json", [chosen] if chosen else [])

    def file(path: str) -> str | None:
        return cached_file(source, path, revision=revision, _raise_exceptions_for_missing_entries=False)

    if chosen or not file(SAFE_WEIGHTS_NAME):
        for index in [chosen] if chosen else [SAFE_WEIGHTS_INDEX_NAME, WEIGHTS_INDEX_NAME]:
            if index.endswith(".index.json") and (found := file(index)):
                _refuse_paths(name, index, _parts(Path(found)))


def _parts(index: Path) -> list[Any]:
    """Return the file names in an index; none where it is damaged, which transformers tells."""
    try:
        return list(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []


def _refuse_paths(name: str, where: str, paths: list[Any]) -> None:
    for path in paths:
        if not isinstance(path, str) or PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise RunError(f"{name} cannot be loaded: its {where} names weights outside its own folder: {path!r}")


def _weights(depths: list[float], widths: list[float]) -> float:
    """Return about how many weights stages of these depths and widths have: a square matrix a layer."""
    if len(depths) != len(widths):
        return sum(depths) * max(widths) ** 2
    return sum(depth * width**2 for depth, width in zip(depths, widths, strict=True))


def _numbers(node: Any, key: str = "") -> list[tuple[str, float]]:
    """Return all numbers with the nearest key above them."""
    if isinstance(node, dict):
        return [found for name, child in node.items() for found in _numbers(child, str(name))]
    if isinstance(node, list):
        return [found for child in node for found in _numbers(child, key)]
    return [(key, node)] if isinstance(node, int | float) else []
