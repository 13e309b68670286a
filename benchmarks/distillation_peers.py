"""A distillation step of `CompressionTrainer` against those of NVIDIA's ModelOpt and of torchdistill.

    pip install nvidia-modelopt torchdistill
    python benchmarks/distillation_peers.py

All train copies of one student against one teacher with KL divergence at temperature 4 and Adam, on the same pictures
in memory, in turn. The peers' steps are what their documentation shows, in a plain PyTorch loop. What is not installed
is left out.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import statistics
import time
from collections.abc import Callable

import torch
from distillation_step import BATCH, LABELS, REPEATS, SIZE, STEPS, Pictures, ours
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from hf_compress.ground.tensors import use_channels_last
from hf_compress.models.students import build_registered

TEMPERATURE = 4.0


class Logits(nn.Module):
    """A classifier of transformers as the peers want it: a tensor in, a tensor out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model(pixel_values=pixels).logits


class Pairs(Dataset):
    """The same pictures as tuples."""

    def __init__(self, pictures: Pictures):
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.pictures.pixels[index], self.pictures.labels[index]


def modelopt(teacher: nn.Module, student: nn.Module, pictures: Pictures) -> float:
    import modelopt.torch.distill as distill

    config = {
        "teacher_model": Logits(teacher),
        "criterion": distill.LogitsDistillationLoss(temperature=TEMPERATURE),
    }
    model = distill.convert(Logits(student), mode=[("kd_loss", config)])
    model.train()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-4)

    def step(pixels: Tensor, labels: Tensor) -> None:
        model(pixels)
        loss = model.compute_kd_loss()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return timed(step, DataLoader(Pairs(pictures), batch_size=BATCH, shuffle=True))


def torchdistill(teacher: nn.Module, student: nn.Module, pictures: Pictures) -> float:
    from torch.utils.data import RandomSampler
    from torchdistill.core.distillation import DistillationBox

    logging.disable(logging.INFO)
    logits = {"student_module_path": ".", "student_module_io": "output"}
    logits |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    criterion = {"key": "KDLoss", "kwargs": logits | {"temperature": TEMPERATURE, "alpha": 0.0}}
    terms = {"sub_terms": {"kd": {"criterion": criterion, "weight": 1.0}}}
    whole = {"forward_proc": "forward_batch_only"}
    config = {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "train",
            "sampler": {"class_or_func": RandomSampler},
            "kwargs": {"batch_size": BATCH},
        },
        "teacher": {**whole, "requires_grad": False},
        "student": whole,
        "criterion": {"key": "WeightedSumLoss", "kwargs": terms},
        "optimizer": {"key": "Adam", "kwargs": {"lr": 1e-4}},
    }
    box = DistillationBox(
        Logits(teacher), Logits(student), {"train": Pairs(pictures)}, config, torch.device("cpu"), None, False, 1
    )
    box.pre_epoch_process(epoch=0)

    def step(pixels: Tensor, labels: Tensor, more: dict) -> None:
        loss = box.forward_process(pixels, labels, more)
        box.post_forward_process(loss=loss)
        loss.item()

    return timed(step, box.train_data_loader)


def timed(step: Callable[..., None], loader: DataLoader) -> float:
    """Return the seconds of an epoch from its first batch on."""
    begun = None
    for batch in loader:
        begun = begun or time.perf_counter()
        step(*batch)
    return time.perf_counter() - begun


def main() -> None:
    torch.manual_seed(0)
    teacher = build_registered("resnet50", LABELS, image_size=SIZE).model.requires_grad_(False)
    student = build_registered("mobilenet_v2", LABELS, image_size=SIZE).model
    pictures = Pictures(BATCH * STEPS)
    loops = {"CompressionTrainer": lambda *given: ours(*given, loss="kl")}
    loops |= {loop.__name__: loop for loop in (modelopt, torchdistill) if importlib.util.find_spec(loop.__name__)}
    times: dict[str, list[float]] = {name: [] for name in loops}
    for turn in range(1 + REPEATS):
        for name, loop in loops.items():
            given = copy.deepcopy(teacher), copy.deepcopy(student)
            for model in given:
                use_channels_last(model)
            taken = loop(*given, pictures)
            if turn:
                times[name].append(taken / STEPS)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    print(f"| distillation, ResNet-50 -> MobileNetV2, {SIZE} px, batch {BATCH} | a step | of CompressionTrainer |")
    print("|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {1000 * median:.0f} ms | {median / medians['CompressionTrainer']:.3f} |")


if __name__ == "__main__":
    main()
