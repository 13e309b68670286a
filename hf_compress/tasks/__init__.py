"""What models are for: one file a task. Importing this package registers the built-in ones, and not torch."""

from hf_compress.tasks import classification, depth, detection, features, segmentation
from hf_compress.tasks.base import TASKS, Metric, Task, known_metrics, register_task, task_of

__all__ = [
    "TASKS",
    "Metric",
    "Task",
    "classification",
    "depth",
    "detection",
    "features",
    "known_metrics",
    "register_task",
    "segmentation",
    "task_of",
]
