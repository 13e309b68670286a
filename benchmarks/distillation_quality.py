"""Distillation: accuracy of one student after the same steps, against torchdistill and NVIDIA's ModelOpt.

    python benchmarks/distillation_quality.py                                            # digits, a minute or two
    python benchmarks/distillation_quality.py --data ../shared/data/cifar10_jpeg --images 2000 --epochs 4 \\
        --teacher ../shared/models/resnet56-cifar10 --trust-remote-code

The student is a copy of the teacher with half of its channels, the first ones, and is not repaired. All tools train
copies of it on the same batches of the same augmented views, with Adam, gradients of norm 1 at most, and a learning
rate that falls to 0; the last weights count. A seed decides the order of the images, and how they are mixed.

torchdistill has the loss of its CIFAR configurations, `KDLoss` with temperature 4 and alpha 0.9, the weight of the
labels; ModelOpt that of its guide, `LogitsDistillationLoss()` and the labels in equal parts (`StaticLossBalancer()`).
hf-compress has `loss: kl` with its defaults, and `mixup: 1.0`, as in Beyer et al., 2022; the same without mixup, and
the labels alone, tell what comes of which. What is not installed is left out.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import importlib.util
import logging
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rich
import torch
from distillation_peers import Logits
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import TrainingArguments
from transformers.trainer_callback import PrinterCallback

from hf_compress.data import Collator, ImageData, ImageSplit, load_data
from hf_compress.ground.processor import device_name, fastest_device
from hf_compress.ground.tensors import use_channels_last
from hf_compress.measure.cost import count_parameters
from hf_compress.models.load import LoadedModel, load
from hf_compress.models.students import build_registered
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import DistillSection
from hf_compress.sections.models import StudentSection
from hf_compress.steps.pruning.thinning import thinned
from hf_compress.training.arguments import shared_arguments
from hf_compress.training.callbacks import ShowEpoch
from hf_compress.training.predicting import evaluate
from hf_compress.training.trainer import DistillationTrainer

SEEDS, BATCH, RATE, MOST_NORM, MIXUP = (0, 1, 2), 64, 1e-3, 1.0, 1.0
DIGITS, TEACHER_EPOCHS, SIZE = "digits", 10, 32
DIGITS_SPLITS = {"train": 0.5, "validation": 0.1, "test": 0.4}
PACKAGES = {"torchdistill": "torchdistill", "modelopt": "nvidia-modelopt"}
OURS = "hf-compress: kl, mixup"


@dataclass(frozen=True)
class Task:
    """What every tool gets: models that it may change, images that train, and how.

    Attributes:
        teacher: not needed where the student learns from the labels alone.
        images, mixed: in the views that all tools see, and in mixed ones.
    """

    teacher: LoadedModel | None
    student: LoadedModel
    images: ImageSplit
    mixed: ImageSplit
    epochs: int
    seed: int

    def trainer(self, images: ImageSplit, loss: str | None, folder: str = "unused") -> DistillationTrainer:
        """Return ours, which trains the student; without a loss on the labels alone."""
        teacher = self.teacher if loss else None
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=self.epochs,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            max_grad_norm=MOST_NORM,
            lr_scheduler_type="linear",
            seed=self.seed,
            data_seed=self.seed,
            save_strategy="no",
            logging_strategy="no",
            **shared_arguments(0),
        )
        trainer = DistillationTrainer(
            model=self.student.model,
            args=arguments,
            data_collator=Collator(self.student.processor, teacher.processor if teacher else None),
            train_dataset=images,
            optimizer_cls_and_kwargs=(torch.optim.Adam, {"lr": RATE}),
            callbacks=[ShowEpoch(images)],
            teacher=teacher.model if teacher else None,
            loss_config=DistillSection(loss=loss) if loss else None,
        )
        trainer.remove_callback(PrinterCallback)
        use_channels_last(self.student.model)
        return trainer

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Give the batches of our trainer, epoch after epoch, on its device."""
        loader = self.trainer(self.images, None).get_train_dataloader()
        for epoch in range(self.epochs):
            self.images.epoch = epoch
            loader.set_epoch(epoch)
            for batch in loader:
                yield batch["pixel_values"], batch["labels"]

    @property
    def steps(self) -> int:
        return self.epochs * len(self.trainer(self.images, None).get_train_dataloader())


def ours(images: str, loss: str | None) -> Callable[[Task], None]:
    def train(task: Task) -> None:
        with tempfile.TemporaryDirectory() as folder:
            task.trainer(getattr(task, images), loss, folder).train()

    return train


def torchdistill(task: Task) -> None:
    from torch.utils.data import RandomSampler
    from torchdistill.core.distillation import DistillationBox

    logging.disable(logging.INFO)
    logits = {"student_module_path": ".", "student_module_io": "output"}
    logits |= {"teacher_module_path": ".", "teacher_module_io": "output"}
    criterion = {"key": "KDLoss", "kwargs": logits | {"temperature": 4.0, "alpha": 0.9}}
    terms = {"sub_terms": {"kd": {"criterion": criterion, "weight": 1.0}}}
    whole = {"forward_proc": "forward_batch_only"}
    config = {
        "num_epochs": task.epochs,
        "train_data_loader": {"dataset_id": "train", "sampler": {"class_or_func": RandomSampler}, "kwargs": {}},
        "teacher": {**whole, "requires_grad": False},
        "student": whole,
        "criterion": {"key": "WeightedSumLoss", "kwargs": terms},
        "optimizer": {"key": "Adam", "kwargs": {"lr": RATE}, "max_grad_norm": MOST_NORM},
        "scheduler": {"key": "LinearLR", "kwargs": falling(task), "scheduling_step": 1},
    }
    models = Logits(task.teacher.model), Logits(task.student.model)
    box = DistillationBox(*models, {"train": task.images}, config, fastest_device(), None, False, 1)
    box.pre_epoch_process(epoch=0)
    for pixels, labels in task.batches():
        loss = box.forward_process(pixels, labels, {})
        box.post_forward_process(loss=loss)


def modelopt(task: Task) -> None:
    import modelopt.torch.distill as distill

    config = {
        "teacher_model": Logits(task.teacher.model),
        "criterion": distill.LogitsDistillationLoss(),
        "loss_balancer": distill.StaticLossBalancer(),
    }
    model = distill.convert(Logits(task.student.model), mode=[("kd_loss", config)]).to(fastest_device())
    model.train()
    parameters = list(task.student.model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, **falling(task))
    for pixels, labels in task.batches():
        loss = model.compute_kd_loss(student_loss=F.cross_entropy(model(pixels), labels))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, MOST_NORM)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    distill.export(model)


def falling(task: Task) -> dict[str, float]:
    return {"start_factor": 1.0, "end_factor": 0.0, "total_iters": task.steps}


METHODS = {
    "labels alone": ours("images", None),
    "torchdistill: KDLoss, T 4, alpha 0.9": torchdistill,
    "ModelOpt: LogitsDistillationLoss, labels": modelopt,
    "hf-compress: kl": ours("images", "kl"),
    OURS: ours("mixed", "kl"),
}


def prepare(arguments: argparse.Namespace) -> tuple[LoadedModel, ImageData]:
    """Return the teacher, which on digits is trained first, and the images, mixed where they are augmented."""
    digits = arguments.data == DIGITS
    section = DataSection(
        path=arguments.data,
        augmentation="none" if digits else "light",
        mixup=MIXUP,
        views=arguments.epochs,
        splits=DIGITS_SPLITS if digits else {"train": f"train[:{arguments.images}]"},
    )
    data = load_data(section, 0)
    if arguments.teacher:
        teacher = load(arguments.teacher, trust_remote_code=arguments.trust_remote_code)
        data = data.aligned(teacher.label_names)
    else:
        torch.manual_seed(0)
        teacher = build_registered("resnet18", data.label_names, width=0.5, image_size=SIZE)
        task = Task(None, teacher, data.train, data.train, TEACHER_EPOCHS, 0)
        ours("images", None)(task)
        teacher.model.cpu().eval()
    if digits:
        data = replace(data, train=data.train.subset(np.arange(min(arguments.images, len(data.train)))))
    return teacher, data.augmented(section.augmentation, teacher.processor)


def measure(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Return the test accuracy of every method, one number a seed."""
    teacher, data = prepare(arguments)

    def accuracy(model: nn.Module) -> float:
        return evaluate(model.eval().cpu(), teacher.processor, data, "test")["accuracy"]

    found: dict[str, list[float]] = {"teacher": [accuracy(teacher.model)] * len(SEEDS)}
    plain = data.train.augmented(data.train.augment)
    begin, _ = thinned(teacher, StudentSection(model="teacher", width=arguments.width))
    found["student before"] = [accuracy(begin)] * len(SEEDS)
    for seed in SEEDS:
        images, mixed = (replace(split, seed=seed) for split in (plain, data.train))
        for name, method in METHODS.items():
            if method.__name__ in PACKAGES and not importlib.util.find_spec(method.__name__):
                continue
            student = replace(teacher, model=copy.deepcopy(begin))
            own = replace(teacher, model=copy.deepcopy(teacher.model))
            torch.manual_seed(seed)
            method(Task(own, student, images, mixed, arguments.epochs, seed))
            found.setdefault(name, []).append(accuracy(student.model))
            print(f"seed {seed}, {name}: {found[name][-1]:.4f}", file=sys.stderr, flush=True)
    share = count_parameters(begin) / count_parameters(teacher.model)
    steps = arguments.epochs * -(-len(data.train) // BATCH)
    print(f"{device_name()}, {torch.get_num_threads()} threads; {versions()}\n")
    print(
        f"{Path(arguments.data).name}: {len(data.train):,} training images, {len(data.test):,} test images, {steps:,} "
        f"steps of {BATCH}; the student has {share:.0%} of the parameters of {Path(teacher.name).name}\n"
    )
    return found


def versions() -> str:
    installed = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module)]
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", *installed))


def spread(values: list[float], sign: str = "") -> str:
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{100 * mean:{sign}.2f} ± {100 * deviation:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=DIGITS)
    parser.add_argument("--teacher", help="a trained model of the same classes; on digits one is trained")
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--images", type=int, default=400, help="training images")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--width", type=float, default=0.5, help="share of the teacher's channels")
    rich.get_console().quiet = True  # no traces of progress bars around the table
    found = measure(parser.parse_args())
    print(f"| | accuracy, {len(SEEDS)} seeds, % | {OURS} against it, points |\n|---|--:|--:|")
    for name, values in found.items():
        gains = [own - other for own, other in zip(found[OURS], values, strict=True)]
        print(f"| {name} | {spread(values)} | {'' if name == OURS else spread(gains, '+')} |")


if __name__ == "__main__":
    main()
