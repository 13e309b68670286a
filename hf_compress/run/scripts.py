"""Scripts beside deployed files: written where they see pictures to the bit as the model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hf_compress.data.images import example_input, preprocess
from hf_compress.device.answers import ANSWERS, CLASSIFIES, DETECTS, SEES_DEPTH, SEGMENTS, found_objects
from hf_compress.device.opening import OPENERS
from hf_compress.device.pictures import preprocessed
from hf_compress.device.script import script, script_name
from hf_compress.ground.files import write_text
from hf_compress.measure.detections import CONFIDENT, detections
from hf_compress.models.load import LoadedModel

SHAPES = (64, 96), (96, 64), (333, 500), (1000, 611)


def write_script(row: dict[str, Any], folder: Path, task: str | None, obstacle: str | None) -> None:
    """Write the script of a deployed file; the row gets its path as `script`, or why there is none as `no_script`.

    Args:
        task: the Hub's name of what the model is for, if it has one.
        obstacle: why no file of the model can have one, see `unscripted`.
    """
    runtime, file = row["runtime"], folder / row["file"]
    if reason := obstacle if runtime in OPENERS else f"the runtime {runtime} is another package's":
        row["no_script"] = reason
        return
    name = script_name(runtime, row["precision"] == "int8")
    write_text(file.with_name(name), script(runtime, task, file.name, name, list(row["max_difference"])))
    row["script"] = Path(row["file"]).with_name(name).as_posix()


def unscripted(loaded: LoadedModel, task: str | None) -> str | None:
    """Return why no script can say what a model says of a picture, whatever its runtime; None where one can."""
    if reason := unsaid(loaded, task):
        return reason
    if not is_portable(loaded.processor):
        return f"{type(loaded.processor).__name__} makes of pictures what NumPy and Pillow do not make to the bit"
    return None


def unsaid(loaded: LoadedModel, task: str | None) -> str | None:
    """Return why `device.answers` cannot say what a model says of a picture; None where it can.

    Args:
        task: the Hub's name of what the model is for, if it has one.
    """
    kind = type(loaded.processor).__name__
    if task not in ANSWERS:
        return "what models of its kind say is not known here"
    if task != CLASSIFIES and getattr(loaded.processor, "do_center_crop", False):
        advice = "'do_center_crop: false' and a 'size' of height and width in preprocessor_config.json show it all"
        return f"{kind} cuts the edges of pictures off, of which the model says nothing ({advice})"
    if task == SEES_DEPTH and getattr(loaded.processor, "do_pad", False):
        return f"{kind} pads pictures, so that what the model says is not of the picture alone"
    if len(loaded.label_names) > 256 and task == SEGMENTS:
        return "it has more than the 256 classes that a PNG holds"
    if task == DETECTS and not _finds_the_same(loaded):
        return f"{kind} finds other objects in what the model says than NumPy does"
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


def _finds_the_same(loaded: LoadedModel) -> bool:
    """Return whether `device.answers` finds in answers what the image processor of a detector finds."""
    classes = len(loaded.label_names)
    generator = torch.Generator().manual_seed(0)
    sure, boxes = torch.randint(classes, (9,), generator=generator), torch.rand(1, 9, 4, generator=generator)
    try:
        with torch.no_grad():
            output = loaded.model(pixel_values=example_input(loaded.processor))
        logits = torch.full((1, 9, output.logits.shape[-1]), -6.0)
        logits[0, range(9), sure] = torch.linspace(-8, 8, 9)
        rows = detections(loaded.processor, logits, boxes)[0]
    except Exception:  # other processors find other things, in other outputs
        return False
    asked = rows[rows[:, 0] >= CONFIDENT].numpy()
    found = found_objects(logits[0].numpy(), boxes[0].numpy(), classes)
    return "pred_boxes" in output and found.shape == asked.shape and np.allclose(found, asked, atol=1e-5)
