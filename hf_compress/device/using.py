"""Predictions and benchmarks of models, whatever runs them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_compress.device.answers import CLASSIFIES
from hf_compress.device.model import DeviceModel
from hf_compress.device.pictures import read_picture
from hf_compress.device.telling import TELLING
from hf_compress.device.timing import of_times, timed_in_turns
from hf_compress.ground.errors import UsageError

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
TIMED = 16  # pictures, each of which is timed again and again


def predictions(
    model: DeviceModel, images: Sequence[Path], top: int = 1, maps: Path | None = None
) -> list[dict[str, Any]]:
    """Return for each picture `image` and what a model says of it.

    Of a classifier `classes`, the `top` most probable, each `label` and `probability`; of a segmenter `pixels`, each
    `label` and `share`, the largest first; of a model for depth `depth`, the `smallest` and the `largest`; of a
    detector `objects`, each `label`, `score` and `box`: left, top, right and bottom in pixels.

    Args:
        maps: a folder, which gets the classes or the depths of the pixels of each picture, as a PNG of its size.

    Raises:
        UsageError: a file is no picture; maps are asked of what says nothing of pixels, or into a file.
    """
    tells, found = TELLING[model.task], []
    if maps and tells.map_of is None:
        having = " and ".join(task for task, each in TELLING.items() if each.map_of)
        raise UsageError(f"'{model.name}' is for {model.task}: only models for {having} have maps")
    if maps and maps.exists() and not maps.is_dir():
        raise UsageError(f"'{maps}' is no folder: name one for the maps, it is made where there is none")
    above = os.path.commonpath([image.absolute().parent for image in images]) if maps else ""
    for image in images:
        picture = _picture(image)
        answer = tells.answer(model.outputs(model.see(picture)), picture.shape, model.labels)
        found.append({"image": str(image)} | tells.row(answer, model.labels, top))
        if maps:
            place = maps / image.absolute().relative_to(above)
            place.parent.mkdir(parents=True, exist_ok=True)
            tells.write_map(answer, place.with_name(f"{place.name}.{tells.map_of}.png"))
    return found


def benchmark(models: Sequence[DeviceModel], images: Sequence[Path], repeats: int = 50) -> list[dict[str, Any]]:
    """Compare models for one task on pictures: all are asked about each, and timed in turn, one picture at a time.

    Returns:
        For each `file`, `bytes`, `p50_ms`, `p95_ms` and `noise` (see `of_times`); `agreement` with the first: the
        fraction of pictures with the same best class, of pixels of the same class, of pixels less than a quarter
        nearer or farther, of objects that both find; and of classifiers `accuracy`, where the folders of all pictures
        are labels.

    Raises:
        UsageError: a file is no picture; the models are for several tasks.
    """
    first = models[0]
    if other := next((model for model in models if model.task != first.task), None):
        raise UsageError(
            f"'{first.name}' is for {first.task}, '{other.name}' for {other.task}: compare models for one"
        )
    tells, known = TELLING[first.task], {label: number for number, label in enumerate(first.labels)}
    numbers = [np.array([known.get(label, -1) for label in model.labels]) for model in models]
    seen: list[list[np.ndarray]] = [[] for _ in models]
    agreed, right = np.zeros((2, len(models)))
    for count, image in enumerate(images):
        picture, answers = _picture(image), []
        for model, kept in zip(models, seen, strict=True):
            pixel_values = model.see(picture)
            if count < TIMED:
                kept.append(pixel_values)
            answers.append(tells.answer(model.outputs(pixel_values), picture.shape, model.labels))
        for place, answer in enumerate(answers):
            agreed[place] += tells.agreement(answer, answers[0], numbers[place])
            if first.task == CLASSIFIES:
                right[place] += models[place].labels[answer.argmax()] == image.parent.name
    seconds = timed_in_turns([partial(_ask_all, *each) for each in zip(models, seen, strict=True)], repeats)
    rows, folders = [], {image.parent.name for image in images}
    for place, (model, took) in enumerate(zip(models, map(of_times, seconds), strict=True)):
        per_image = {key: took[key] / len(seen[place]) for key in ("p50_ms", "p95_ms")}
        row = {"file": model.name, "bytes": model.bytes, **per_image, "noise": took["noise"]}
        row["agreement"] = agreed[place] / len(images)
        if first.task == CLASSIFIES and folders <= set(model.labels):
            row["accuracy"] = right[place] / len(images)
        rows.append(row)
    return rows


def pictures_in(places: Iterable[str | Path]) -> list[Path]:
    """Return the files of pictures that are named, and all those in the folders that are named, sorted.

    Raises:
        UsageError: there is nothing.
    """
    found: list[Path] = []
    for place in map(Path, places):
        inside = sorted(path for path in place.rglob("*") if path.suffix.lower() in ENDINGS) if place.is_dir() else []
        if not inside and not place.is_file():
            raise UsageError(f"'{place}' is no picture, and no folder that holds any")
        found += inside or [place]
    return found


def _picture(image: Path) -> np.ndarray:
    try:
        return read_picture(image)
    except Exception as error:  # Pillow has many kinds of error
        raise UsageError(f"'{image}' is no whole picture: {error}") from None


def _ask_all(model: DeviceModel, seen: list[np.ndarray]) -> None:
    for pixel_values in seen:
        model.outputs(pixel_values)
