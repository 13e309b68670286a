"""Scripts beside deployed files: written where they see pictures to the bit as the model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_compress.data.images import preprocess
from hf_compress.device.opening import OPENERS
from hf_compress.device.pictures import preprocessed
from hf_compress.device.script import script, script_name
from hf_compress.ground.files import write_text
from hf_compress.models.load import LoadedModel

SHAPES = (64, 96), (96, 64), (333, 500), (1000, 611)


def write_script(row: dict[str, Any], folder: Path, loaded: LoadedModel) -> None:
    """Write the script of a deployed file; the row gets its path as `script`, or why there is none as `no_script`."""
    file = folder / row["file"]
    if reason := _obstacle(row, loaded):
        row["no_script"] = reason
        return
    name = script_name(row["runtime"], row["precision"] == "int8")
    output = list(row["max_difference"]).index("logits")
    write_text(file.with_name(name), script(row["runtime"], file.name, name, output))
    row["script"] = Path(row["file"]).with_name(name).as_posix()


def _obstacle(row: dict[str, Any], loaded: LoadedModel) -> str | None:
    if not type(loaded.model).__name__.endswith("ForImageClassification"):
        return "it names no class for a picture"
    if row["runtime"] not in OPENERS:
        return f"the runtime {row['runtime']} is another package's"
    if not is_portable(loaded.processor):
        kind = type(loaded.processor).__name__
        return f"{kind} makes of pictures what NumPy and Pillow do not make to the bit"
    return None


def is_portable(processor: Any) -> bool:
    """Return whether `device.pictures` makes of pictures what an image processor makes of them, to the bit."""
    try:
        settings = json.loads(processor.to_json_string())
        generator = np.random.default_rng(0)
        for shape in SHAPES:
            picture = generator.integers(0, 256, (*shape, 3), dtype=np.uint8)
            asked = preprocess(processor, [torch.from_numpy(picture).permute(2, 0, 1)])
            if not np.array_equal(preprocessed(picture, settings), asked.numpy()):
                return False
    except Exception:  # settings of other processors have other keys and forms
        return False
    return True
