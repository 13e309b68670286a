"""A distillation step of `DistillationTrainer` against a bare PyTorch loop that does the same work.

    python benchmarks/distillation_step.py

Both train copies of one student against one teacher with the loss `mse` and Adam, on the same pictures in memory,
through the same DataLoader, in turn.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from hf_compress.ground.tensors import use_channels_last
from hf_compress.models.students import build_registered
from hf_compress.sections.distillation import DistillSection
from hf_compress.training.trainer import DistillationTrainer

SIZE, BATCH, STEPS, REPEATS = 96, 32, 25, 5
LABELS = [str(label) for label in range(10)]


class Pictures(Dataset):
    """Random pictures with labels, in memory."""

    def __init__(self, number: int):
        self.pixels = torch.randn(number, 3, SIZE, SIZE)
        self.labels = torch.randint(len(LABELS), (number,))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


class Clock(TrainerCallback):
    """Times the steps alone: what comes before the first and after the last is done once a training."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            self.begun = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds = time.perf_counter() - self.begun


def bare(teacher: nn.Module, student: nn.Module, pictures: Pictures) -> float:
    use_channels_last(teacher)
    use_channels_last(student)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)
    student.train()
    begun = None
    for batch in DataLoader(pictures, batch_size=BATCH, shuffle=True):
        begun = begun or time.perf_counter()
        with torch.no_grad():
            target = teacher(pixel_values=batch["pixel_values"]).logits.softmax(dim=1)
        logits = student(pixel_values=batch["pixel_values"]).logits
        loss = nn.functional.mse_loss(logits.softmax(dim=1), target)
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
    return time.perf_counter() - begun


def ours(teacher: nn.Module, student: nn.Module, pictures: Pictures, loss: str = "mse") -> float:
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=BATCH,
            learning_rate=1e-4,
            save_strategy="no",
            logging_strategy="epoch",
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            disable_tqdm=True,
            use_cpu=True,
            report_to="none",
        )
        trainer = DistillationTrainer(
            model=student,
            args=arguments,
            train_dataset=pictures,
            optimizer_cls_and_kwargs=(torch.optim.Adam, {"lr": 1e-4}),
            callbacks=[clock],
            teacher=teacher,
            loss_config=DistillSection(loss=loss),
        )
        trainer.remove_callback(PrinterCallback)
        use_channels_last(student)
        trainer.train()
    return clock.seconds


def main() -> None:
    torch.manual_seed(0)
    teacher = build_registered("resnet50", LABELS, image_size=SIZE).model.requires_grad_(False)
    student = build_registered("mobilenet_v2", LABELS, image_size=SIZE).model
    pictures = Pictures(BATCH * STEPS)
    times: dict[str, list[float]] = {"bare loop": [], "DistillationTrainer": []}
    for turn in range(1 + REPEATS):
        for name, loop in (("bare loop", bare), ("DistillationTrainer", ours)):
            taken = loop(teacher, copy.deepcopy(student), pictures)
            if turn:
                times[name].append(taken / STEPS)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    print(f"| distillation, ResNet-50 -> MobileNetV2, {SIZE} px, batch {BATCH} | a step | of the bare loop |")
    print("|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {1000 * median:.0f} ms | {median / medians['bare loop']:.3f} |")


if __name__ == "__main__":
    main()
