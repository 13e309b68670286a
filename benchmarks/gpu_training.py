"""Distillation on a GPU: what layout, precision, compilation and prefetching of `DistillationTrainer` give.

    python benchmarks/gpu_training.py

Trains copies of one student against one teacher with the loss `mse` and Adam, on the same pictures in memory. The
first line is a bare PyTorch loop in float32; the others add up.
"""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import time
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from hf_compress.ground.tensors import use_channels_last
from hf_compress.models.students import build_registered
from hf_compress.sections.distillation import DistillSection
from hf_compress.training.arguments import transfer as usual_transfer
from hf_compress.training.trainer import DistillationTrainer

SIZE, BATCH, WARM_UP, STEPS, HELD = 224, 128, 10, 30, 1024
WORKERS = max(1, (os.cpu_count() or 1) - 2)
LABELS = [str(label) for label in range(10)]


class Pictures(Dataset):
    """Random pictures with labels, in memory, ready for the models: what is measured is training, not decoding."""

    def __init__(self, number: int):
        self.pixels = torch.randn(HELD, 3, SIZE, SIZE)
        self.labels = torch.randint(len(LABELS), (number,))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pixels[index % HELD], "labels": self.labels[index]}


class Clock(TrainerCallback):
    """Times the steps after those in which kernels are chosen and compiled."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == WARM_UP:
            torch.cuda.synchronize()
            self.begun = time.perf_counter()

    def on_train_end(self, args, state, control, **kwargs):
        torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.begun


def bare(teacher: nn.Module, student: nn.Module, pictures: Pictures) -> float:
    teacher, student = teacher.cuda(), student.cuda().train()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)
    for step, batch in enumerate(DataLoader(pictures, BATCH, shuffle=True, num_workers=WORKERS)):
        if step == WARM_UP:
            torch.cuda.synchronize()
            begun = time.perf_counter()
        pixels = batch["pixel_values"].cuda()
        with torch.no_grad():
            target = teacher(pixel_values=pixels).logits.softmax(dim=1)
        loss = nn.functional.mse_loss(student(pixel_values=pixels).logits.softmax(dim=1), target)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    torch.cuda.synchronize()
    return time.perf_counter() - begun


def ours(
    teacher: nn.Module,
    student: nn.Module,
    pictures: Pictures,
    channels_last: bool = True,
    bf16: bool = False,
    compile: bool = False,
    transfer: dict[str, Any] | None = None,
) -> float:
    clock = Clock()
    layout = contextlib.nullcontext() if channels_last else patch("hf_compress.training.trainer.use_channels_last")
    with tempfile.TemporaryDirectory() as folder, layout:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            bf16=bf16,
            save_strategy="no",
            logging_strategy="epoch",
            logging_nan_inf_filter=False,
            remove_unused_columns=False,
            dataloader_num_workers=WORKERS,
            disable_tqdm=True,
            report_to="none",
            **(usual_transfer() if transfer is None else transfer),
        )
        trainer = DistillationTrainer(
            model=student,
            args=arguments,
            train_dataset=pictures,
            optimizer_cls_and_kwargs=(torch.optim.Adam, {"lr": 1e-4}),
            callbacks=[clock],
            teacher=teacher,
            loss_config=DistillSection(loss="mse"),
            compile=compile,
        )
        trainer.remove_callback(PrinterCallback)
        use_channels_last(student)
        trainer.train()
    return clock.seconds


def main() -> None:
    torch.manual_seed(0)
    teacher = build_registered("resnet50", LABELS, image_size=SIZE).model.requires_grad_(False).eval()
    student = build_registered("mobilenet_v2", LABELS, image_size=SIZE).model
    pictures = Pictures(BATCH * (WARM_UP + STEPS))
    pageable = {"dataloader_pin_memory": False}
    settings = {
        "bare loop, float32": None,
        "DistillationTrainer": {"channels_last": False, "transfer": pageable},
        "+ pinned memory, asynchronous copies": {"channels_last": False},
        "+ channels-last": {},
        "+ `precision: bf16`": {"bf16": True},
        "+ `compile: true`": {"bf16": True, "compile": True},
    }
    print(f"{torch.cuda.get_device_name()}, {WORKERS} workers\n")
    print(f"| distillation, ResNet-50 -> MobileNetV2, {SIZE} px, batch {BATCH} | images a second | of the bare loop |")
    print("|---|---|---|")
    first = None
    for name, options in settings.items():
        models = copy.deepcopy(teacher), copy.deepcopy(student)
        seconds = bare(*models, pictures) if options is None else ours(*models, pictures, **options)
        first = first or seconds
        print(f"| {name} | {BATCH * STEPS / seconds:.0f} | {first / seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
