"""How much of a training is waiting for data: with and without decoded images in memory and a process that loads.

    python benchmarks/input_pipeline.py

Trains copies of one student on the same JPEG files, in turn. One core is left to the process that loads.
"""

from __future__ import annotations

import copy
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import rich
import torch
from PIL import Image

from hf_compress.data import load_data
from hf_compress.ground.processor import device_name
from hf_compress.models.students import build_registered
from hf_compress.sections.base import TrainingConfig
from hf_compress.sections.data import DataSection
from hf_compress.training.context import Context
from hf_compress.training.fitting import train
from hf_compress.training.trainer import DistillationTrainer

SIZE, IMAGES, WIDTH, HEIGHT, EPOCHS, REPEATS = 128, 640, 500, 375, 1, 3
SETTINGS = [(memory, workers) for workers in (0, 1) for memory in (0, 1024)]


class Clock:
    """Adds up the seconds that a method of the trainer takes."""

    def __init__(self, method: str):
        self.seconds = 0.0
        original = getattr(DistillationTrainer, method)

        def timed(trainer, *args, **kwargs):
            begun = time.perf_counter()
            result = original(trainer, *args, **kwargs)
            self.seconds += time.perf_counter() - begun
            return result

        setattr(DistillationTrainer, method, timed)


def write_photos(folder: Path) -> None:
    """Write JPEG files that compress about as photos do: noise at a quarter of the resolution."""
    generator = np.random.default_rng(0)
    for number in range(IMAGES):
        noise = generator.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
        place = folder / str(number % 2) / f"{number}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((WIDTH, HEIGHT)).save(place, quality=90)


def main() -> None:
    rich.get_console().quiet = True  # no traces of progress bars around the table
    torch.manual_seed(0)
    torch.set_num_threads(max(1, (os.cpu_count() or 2) - 1))
    student = build_registered("mobilenet_v2", ["0", "1"], image_size=SIZE)
    waiting, working = Clock("get_batch_samples"), Clock("training_step")
    shares: dict[tuple[int, int], list[tuple[float, float]]] = {setting: [] for setting in SETTINGS}
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder) / "photos")
        splits = {"train": 0.8, "validation": 0.1, "test": 0.1}
        for turn in range(1 + REPEATS):
            for memory, workers in SETTINGS:
                section = DataSection(path=f"{folder}/photos", splits=splits, cache_mb=memory, workers=workers)
                data = load_data(section, 0)
                context = Context(data, student.processor, None, 0, Path(folder), log=lambda line: None)
                waiting.seconds = working.seconds = 0.0
                train(copy.deepcopy(student.model), context, TrainingConfig(epochs=EPOCHS, batch_size=16))
                if turn:
                    shares[memory, workers].append((waiting.seconds, working.seconds))
    print(f"{device_name()}, {torch.get_num_threads()} thread(s) for the model, median of {REPEATS}\n")
    print(f"| {WIDTH}x{HEIGHT} JPEG, MobileNetV2 at {SIZE} px | waiting for data |")
    print("|---|---|")
    for (memory, workers), times in shares.items():
        share = statistics.median(waited / (waited + worked) for waited, worked in times)
        kept = "decoded images in memory" if memory else "decoded in each epoch"
        print(f"| {kept}, {workers} worker(s) | {share:.1%} |")


if __name__ == "__main__":
    main()
