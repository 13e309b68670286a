"""Measuring a model that already exists."""

from __future__ import annotations

from typing import Any

import torch

from hf_compress.data import ImageData
from hf_compress.data.images import input_size
from hf_compress.ground.errors import UsageError
from hf_compress.measure.cost import cost
from hf_compress.models.load import LoadedModel
from hf_compress.tasks import TASKS, Task
from hf_compress.tasks.declared import declared_task
from hf_compress.tools.own_data import data_section, own_recipe
from hf_compress.training.predicting import predictor


def evaluate_folder(
    name: str, data_path: str | None, split: str | None = None, trust_remote_code: bool = False
) -> dict[str, Any]:
    """Return quality and cost of a saved model.

    Args:
        name: folder or Hub id.
        data_path: the images; None takes those of a run folder's recipe.
        split: `train`, `validation` or `test`, as a run would divide the images. None takes the test images of a run
            folder's own data; of other data the test split, or everything where there is none.

    Returns:
        `model`; `split`: how many images, from where, and how many were skipped; what was `left_out`, `leaks` and
        `conflicting_labels` as in a report; `quality` and `cost`.

    Raises:
        UsageError: no data was named, and the folder has no recipe that names it; or a backbone is to be measured on
            its own gallery.
        RunError: the model's labels are not the data's; or a backbone, which a run with `task: features` left, is
            to be measured on images without labels.
    """
    task = saved_task(name)
    if task.gallery and split == "train":
        raise UsageError("the training images are the gallery of the k-NN accuracy: choose --split validation or test")
    loaded, data = load_with_data(task, name, data_path, trust_remote_code, divided=split is not None)
    data = task.require_labels(loaded, data)
    examine = task.examiner(data, split or "test", None, predictor(task, data.workers))
    return {
        "model": name,
        "split": {"name": split or "test", **data.facts["splits"][split or "test"]},
        **{key: data.facts[key] for key in ("left_out", "leaks", "conflicting_labels")},
        "quality": examine(loaded)["quality"],
        "cost": cost(loaded.model, torch.zeros(1, 3, *input_size(loaded.processor))),
    }


def saved_task(name: str) -> Task:
    """Return the task of a run folder, or of whatever else has a name: see `declared_task`."""
    recipe = own_recipe(name)
    return declared_task(name) if recipe is None else TASKS.get(recipe.task)


def load_with_data(
    task: Task, name: str, data_path: str | None, trust_remote_code: bool = False, divided: bool = False
) -> tuple[LoadedModel, ImageData]:
    """Load a saved model, and images to try it on; `Task.require_labels` brings their targets into its order.

    Args:
        task: see `saved_task`.
        name: folder or Hub id.
        data_path: the images; None takes those of a run folder's recipe.
        divided: divide images that are not of that recipe, too, as is done where some of them are a gallery; else
            they are all to evaluate: see `load_data`.

    Raises:
        UsageError: no data was named, and the folder has no recipe that names it.
    """
    section, seed, own = data_section(name, data_path)
    loaded = task.load(name, trust_remote_code=trust_remote_code)
    return loaded, task.read(section, seed, to_evaluate=not (own or divided or task.gallery))
