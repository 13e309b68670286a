"""Predictions and benchmarks of classifiers, whatever runs them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_compress.device.model import DeviceModel
from hf_compress.device.pictures import read_picture
from hf_compress.device.timing import of_times, timed_in_turns
from hf_compress.ground.errors import UsageError

ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
TIMED = 16  # pictures, each of which is timed again and again


def predictions(model: DeviceModel, images: Iterable[Path], top: int = 1) -> list[dict[str, Any]]:
    """Return for each picture `image` and `classes`: the `top` most probable, each `label` and `probability`.

    Raises:
        UsageError: a file is no picture.
    """
    found = []
    for image in images:
        (logits,) = model.logits(model.see(_picture(image)))
        shares = np.exp(logits - logits.max(), dtype=float)
        best = np.argsort(-shares, kind="stable")[:top]
        classes = [{"label": model.labels[each], "probability": float(shares[each] / shares.sum())} for each in best]
        found.append({"image": str(image), "classes": classes})
    return found


def benchmark(models: Sequence[DeviceModel], images: Sequence[Path], repeats: int = 50) -> list[dict[str, Any]]:
    """Compare classifiers on pictures: all are asked about each, and timed in turn, one picture at a time.

    Returns:
        For each `file`, `bytes`, `p50_ms`, `p95_ms` and `noise` (see `of_times`); `agreement` with the first,
        the fraction of pictures with the same best class; `accuracy`, where the folders of all pictures are labels.
    """
    pictures = [_picture(image) for image in images]
    answers = [[model.labels[int(model.logits(model.see(each)).argmax())] for each in pictures] for model in models]
    seen = [[model.see(each) for each in pictures[:TIMED]] for model in models]
    seconds = timed_in_turns([partial(_ask_all, *each) for each in zip(models, seen, strict=True)], repeats)
    times = list(map(of_times, seconds))
    true = [image.parent.name for image in images]
    rows = []
    for model, said, took in zip(models, answers, times, strict=True):
        per_image = {key: took[key] / min(TIMED, len(pictures)) for key in ("p50_ms", "p95_ms")}
        row = {"file": model.name, "bytes": model.bytes, **per_image, "noise": took["noise"]}
        row["agreement"] = _share(said, answers[0])
        if set(true) <= set(model.labels):
            row["accuracy"] = _share(said, true)
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
        model.logits(pixel_values)


def _share(said: list[str], true: list[str]) -> float:
    return sum(one == other for one, other in zip(said, true, strict=True)) / len(true)
