"""Which images `mse` between softmax outputs learns from, and which `kl` does: gradients at a student's logits.

    python benchmarks/softmax_mse.py TEACHER STUDENT [STUDENT ...]    # run folders

The training images of the first student are sorted by the probability that a student gives to the teacher's class. A
row has their share, and the mean length of a loss's gradient there as a multiple of its mean over all images, since
optimizers that divide by the size of past gradients see nothing else. With p the student's and q the teacher's softmax
outputs over C classes, the gradient of `kl` (temperature 1) is p - q, that of `mse` 2/C (diag(p) - p p') (p - q): it
vanishes where p is sure, right or wrong.
"""

from __future__ import annotations

import argparse
from itertools import pairwise

import torch

from hf_compress.losses.logits import kl, mse
from hf_compress.models.load import load
from hf_compress.sections.distillation import LossOptions
from hf_compress.tools.evaluation import load_with_data, saved_task
from hf_compress.training.predicting import predict

EDGES = (0.0, 0.001, 0.01, 0.1, 0.5, 0.9, 1.0)
LOSSES = {"mse": (mse, LossOptions(loss="mse")), "kl": (kl, LossOptions(loss="kl", temperature=1.0))}


def logits(folder: str, images) -> torch.Tensor:
    """Return what a saved classifier says to images, float64 of shape (images, classes)."""
    loaded = load(folder)
    return torch.as_tensor(predict(loaded.model, loaded.processor, images).outputs["logits"], dtype=torch.float64)


def lengths(loss, options: LossOptions, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Return the length of a loss's gradient at each image's logits."""
    at = student.clone().requires_grad_()
    loss(at, teacher, None, options).backward()
    return at.grad.norm(dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("teacher")
    parser.add_argument("students", nargs="+")
    arguments = parser.parse_args()
    _, data = load_with_data(saved_task(arguments.students[0]), arguments.students[0], None)
    teacher = logits(arguments.teacher, data.train)
    classes = teacher.argmax(dim=1, keepdim=True)
    for folder in arguments.students:
        student = logits(folder, data.train)
        sure = student.softmax(dim=1).gather(1, classes).squeeze(1)
        found = {name: lengths(*loss, student, teacher) for name, loss in LOSSES.items()}
        print(f"\n{folder}, {len(sure):,} images\n")
        print("| probability of the teacher's class | images | mse | kl |\n|---|--:|--:|--:|")
        for low, high in pairwise(EDGES):
            here = (sure >= low) & ((sure < high) | (high == EDGES[-1]))
            if here.any():
                means = " | ".join(f"{of[here].mean() / of.mean():.3g}" for of in found.values())
                print(f"| {low:g} to {high:g} | {here.float().mean():.1%} | {means} |")


if __name__ == "__main__":
    main()
