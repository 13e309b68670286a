"""Where images come from: the Hub, a folder, or `digits`."""

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import datasets
import numpy as np
from torch import Tensor

from hf_compress.data.addresses import with_bytes
from hf_compress.data.decoded import Decoded, Room
from hf_compress.data.folders import FolderError
from hf_compress.data.images import decode
from hf_compress.data.local import Source, load_folder
from hf_compress.data.remote import load_remote
from hf_compress.ground.errors import RunError, UsageError, shown
from hf_compress.ground.files import missing_folder, user_path
from hf_compress.ground.machine import failure_of
from hf_compress.ground.progress import bar
from hf_compress.sections.data import SourceSection

ENCODED = ("binary", "string", "large_binary", "large_string")  # bytes or paths of images
logger = logging.getLogger(__name__)


def load_raw(section: SourceSection, key: str, streaming: bool = False) -> Source:
    """Return the data as it was found; `key` is where the section stands in the recipe.

    Raises:
        UsageError: there is no such data set.
        RunError: the wanted commit is not cached, and the Hub is out of reach.
    """
    if section.path == "digits":
        return Source(_digits())
    folder = user_path(section.path)
    looks_local = os.path.exists(folder)
    if missing_folder(section.path) or (looks_local and not os.path.isdir(folder)):
        raise UsageError(f"'{key}.path': there is no folder {shown(section.path)}")
    try:
        if looks_local:
            return load_folder(folder, section, streaming)
        return load_remote(section, key, streaming)
    except FolderError as error:
        raise UsageError(f"'{key}.path': in {shown(section.path)}, {error}") from None
    except datasets.exceptions.DatasetNotFoundError as error:
        raise UsageError(f"'{key}.path': {str(error).rstrip('.')}; check the id, or log in if it is private") from None
    except (OSError, ValueError, TypeError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        advice = "; look for a copy of the data in parquet files" if "scripts are no longer" in reason else ""
        raise UsageError(f"'{key}.path': {section.path} cannot be loaded: {reason}{advice}") from None


def _digits() -> datasets.DatasetDict:
    """The 1,797 handwritten digits (8x8 pixels) that scikit-learn ships."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pictures = [Image.fromarray(picture) for picture in np.uint8(digits.images * 255 / 16)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("0123456789"))})
    rows = datasets.Dataset.from_dict({"image": pictures, "label": digits.target}, features=features)
    return datasets.DatasetDict({"train": rows})


def features_of(raw: datasets.DatasetDict) -> datasets.Features:
    return next(iter(raw.values())).features


def undecoded(raw: datasets.DatasetDict, column: str) -> datasets.Dataset:
    """Return the undecoded images of all splits, one after the other."""
    raw = raw.select_columns(column).cast_column(column, datasets.Image(decode=False))
    return datasets.concatenate_datasets(list(raw.values()))


def image_column_of(raw: datasets.DatasetDict, section: SourceSection, key: str) -> str:
    """Return the image column that a section names, or else the only one.

    Raises:
        UsageError: there is none, or more than one, or what is named holds no images.
    """
    features = features_of(raw)
    columns = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if wanted := section.image_column:
        feature = features.get(wanted)
        if not isinstance(feature, datasets.Image | dict) and getattr(feature, "dtype", None) not in ENCODED:
            kind = f"it holds {feature}" if wanted in features else f"the columns are {', '.join(features)}"
            raise UsageError(f"'{key}.image_column' cannot be {shown(wanted)}, which is no column of images: {kind}")
        return wanted
    if len(columns) != 1:
        found = f"several image columns ({', '.join(columns)})" if columns else "no image column"
        names = ", ".join(features)
        raise UsageError(f"the data set has {found}: name one of {names} in '{key}.image_column'")
    return columns[0]


def read_pictures(
    rows: datasets.Dataset, column: str, on_corrupt: str, place: str, room: Room
) -> tuple[np.ndarray, Decoded]:
    """Decode every picture once; leave out, or stop at, those that cannot be decoded.

    Returns:
        Whether each picture can be decoded, and what is known of those that can; they stay in memory while there is
        `room`. `place` says what the rows are.
    """

    def read(picture: dict[str, Any]) -> tuple[bytes, Tensor] | str:
        try:
            content = with_bytes(picture)["bytes"]
            return hashlib.sha256(content).digest(), decode({"bytes": content, "path": None})
        except Exception as error:  # a damaged file makes Pillow raise anything
            if failure_of(error) is not None:
                raise
            return f"{(picture or {}).get('path') or 'a picture'} ({error or type(error).__name__})"

    faults: list[str | None] = []
    parts = [Decoded.of([], room)]
    with ThreadPoolExecutor() as pool, bar() as shown:
        task = shown.add_task(f"Checking images of {place}", total=len(rows))
        for batch in rows.select_columns(column).iter(batch_size=256):
            results = list(pool.map(read, batch[column]))
            faults += [result if isinstance(result, str) else None for result in results]
            parts.append(Decoded.of([result for result in results if not isinstance(result, str)], room))
            shown.update(task, completed=len(faults))
    bad = [text for text in faults if text]
    if bad and on_corrupt == "stop":
        raise RunError(f"{place} has {len(bad)} corrupt images, the first is {bad[0]}; 'data.on_corrupt: skip'")
    if bad:
        logger.warning("%s: skipped %d corrupt images, the first is %s", place, len(bad), bad[0])
    return np.array([text is None for text in faults], dtype=bool), Decoded.joined(parts)
