"""Which task a checkpoint was made for, where nobody says it."""

from __future__ import annotations

from typing import Any

from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import read_json, user_path
from hf_compress.models.students import STUDENTS
from hf_compress.tasks.base import TASKS, Task
from hf_compress.tasks.classification import CLASSIFICATION

CONFIG = "config.json"


def declared_task(name: str, revision: str | None = None) -> Task:
    """Return the task of the model that a checkpoint's config names; of all else classification.

    Args:
        name: Hub id, folder, or the name of a registered student. What cannot be read is for classification, too:
            loading it says what is wrong.
    """
    made = [STUDENTS.get(name).auto_class] if name in STUDENTS else _made(_config(name, revision))
    return task_of_class(*made) or CLASSIFICATION


def task_of_class(*names: str) -> Task | None:
    """Return the task that the name of one of these classes ends in, as in DetrForObjectDetection."""
    for task in map(TASKS.get, TASKS):
        kind = task.auto_class.removeprefix("AutoModel")
        if kind and any(each.endswith(kind) for each in names):
            return task
    return None


def task_of_model(model: object) -> Task | None:
    """Return the task that the name of its class, or of one that this is derived from, ends in."""
    return task_of_class(*(kind.__name__ for kind in type(model).__mro__))


def refuse_other_tasks(model: object, who: str) -> None:
    """Raise UsageError where a model is known to be no classifier; `who` compares logits of classes alone."""
    task = task_of_model(model)
    if task not in (None, CLASSIFICATION):
        raise UsageError(
            f"{who} compares the classes of pictures, and {type(model).__name__} is for {task.name}: distil it by a "
            f"recipe with 'task: {task.name}' (hf-compress run, or hf_compress.compress)"
        )


def _made(config: Any) -> list[str]:
    """Return the names of the classes that a config names: auto classes that custom code has, and its own."""
    said = [config.get(key) for key in ("auto_map", "architectures")] if isinstance(config, dict) else []
    return [each for names in said if isinstance(names, dict | list) for each in names if isinstance(each, str)]


def _config(name: str, revision: str | None) -> Any:
    """Return what the config of a checkpoint says; nothing where it cannot be read."""
    from huggingface_hub import hf_hub_download  # here, or it is imported before --quiet can silence it

    from hf_compress.ground.hub_failures import RETRIED, limit_waits

    try:
        if (file := user_path(name) / CONFIG).is_file():
            return read_json(file)
        limit_waits()
        return read_json(hf_hub_download(name, CONFIG, revision=revision))
    except (OSError, ValueError, *RETRIED):
        return None
