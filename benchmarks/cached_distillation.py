"""Distillation with the teacher's answers at hand, against training without a teacher and with one that looks on.

    python benchmarks/cached_distillation.py

All three train copies of one student on the same augmented digits, in turn; reading answers counts. The first turn,
which fills the cache, does not.
"""

from __future__ import annotations

import copy
import os
import statistics
import tempfile
import time
from pathlib import Path

import rich
import torch

from hf_compress.data import load_data
from hf_compress.ground.processor import device_name
from hf_compress.models.students import build_registered
from hf_compress.sections.base import TrainingConfig
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import DistillSection
from hf_compress.training.context import Context
from hf_compress.training.fitting import train

SIZE, EPOCHS, IMAGES, REPEATS = 64, 2, 512, 3
LABELS = [str(label) for label in range(10)]
TRAINING = {"epochs": EPOCHS, "learning_rate": 1e-3}
METHODS = {
    "training without a teacher": (False, None),
    "distillation, answers cached": (True, EPOCHS),
    "distillation, the teacher looks on": (True, None),
}


def seconds(student, teacher, views: int | None, folder: str) -> float:
    """Train a copy of the student and return how long that took."""
    splits = {"train": f"train[:{IMAGES}]", "validation": "train[1600:1664]", "test": "train[1700:1764]"}
    section = DataSection(path="digits", splits=splits, augmentation="light", views=views)
    data = load_data(section, 0)
    data = data.augmented("light", student.processor)
    context = Context(data, student.processor, None, 0, Path(folder), log=lambda line: None)
    model = copy.deepcopy(student.model)
    config = DistillSection(loss="kl", **TRAINING) if teacher else TrainingConfig(**TRAINING)
    begun = time.perf_counter()
    train(model, context, config, teacher)
    return time.perf_counter() - begun


def main() -> None:
    rich.get_console().quiet = True  # no traces of progress bars around the table
    torch.manual_seed(0)
    teacher = build_registered("resnet50", LABELS, image_size=SIZE)
    student = build_registered("mobilenet_v2", LABELS, width=0.5, image_size=SIZE)
    taken: dict[str, list[float]] = {name: [] for name in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_COMPRESS_CACHE"] = f"{folder}/cache"
        for turn in range(1 + REPEATS):
            for name, (taught, views) in METHODS.items():
                took = seconds(student, teacher if taught else None, views, f"{folder}/work")
                if turn:
                    taken[name].append(took)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    alone = next(iter(medians.values()))
    print(f"{device_name()}, {torch.get_num_threads()} threads, median of {REPEATS}\n")
    print(f"| ResNet-50 -> MobileNetV2 0.5, {IMAGES} images of {SIZE} px, {EPOCHS} epochs | seconds | of the first |")
    print("|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} | {median / alone:.3f} |")


if __name__ == "__main__":
    main()
