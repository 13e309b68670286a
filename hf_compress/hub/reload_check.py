"""A model's folder, reloaded in the way a user will: it must answer as the model did that was saved there."""

from pathlib import Path

import transformers
from torch import Tensor
from transformers import AutoImageProcessor

from hf_compress.checkpoint.labels import label_names
from hf_compress.data import ImageSplit
from hf_compress.data.images import spread
from hf_compress.ground.errors import RunError
from hf_compress.models.load import LoadedModel
from hf_compress.tasks.base import Task

PICTURES = 4


def some_pictures(images: ImageSplit) -> list[Tensor]:
    """Return a few pictures of a split, uint8 (3, height, width)."""
    chosen = spread(images, PICTURES)
    return [chosen[index]["view"] for index in range(len(chosen))]


def check_reload(folder: Path, own: LoadedModel, pictures: list[Tensor], task: Task, labels: list[str]) -> None:
    """Compare what transformers makes of a folder with the model itself, as the task says.

    Args:
        own: the model that was saved in the folder.
        pictures: uint8 (3, height, width).
        labels: class names in the order of the outputs, where the task has classes.

    Raises:
        RunError: labels or answers differ, or the folder does not load.
    """
    trust = {"trust_remote_code": own.model.is_custom_code()}  # it ran already, with the user's consent
    try:
        model = getattr(transformers, task.auto_class).from_pretrained(folder, **trust).eval()
        processor = AutoImageProcessor.from_pretrained(folder, **trust)
    except Exception as error:
        raise _differs(folder, f"{type(error).__name__}: {' '.join(str(error).split())}") from error
    if task.classes:
        names = label_names(model.config)
        for number, (name, label) in enumerate(zip(names, labels, strict=False)):
            if name != label:
                raise _differs(folder, f"class {number} is '{name}' and not '{label}'")
        if len(names) != len(labels):
            raise _differs(folder, f"it has {len(names)} labels and not {len(labels)}")
    if difference := task.difference(LoadedModel(model, processor, str(folder)), own, pictures):
        raise _differs(folder, difference)


def _differs(folder: Path, difference: str) -> RunError:
    return RunError(f"the model that was saved in '{folder}' does not reload as it was: {difference}")
