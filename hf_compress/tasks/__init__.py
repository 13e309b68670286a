"""What models are for: one file a task. Importing this package registers the built-in ones, and not torch."""

from hf_compress.tasks import classification, features
from hf_compress.tasks.base import TASKS, Metric, Task, register_task

__all__ = ["TASKS", "Metric", "Task", "classification", "features", "register_task"]
