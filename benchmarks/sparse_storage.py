"""Size and load time of sparse storage, relative to the same model stored dense.

    python benchmarks/sparse_storage.py

Prints a Markdown table. The model is ViT-B/16 with random weights, of which l1 pruning zeroes a share; loads of the
dense and the sparse folder alternate, so that both see the same machine.
"""

import copy
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoModelForImageClassification, ViTConfig
from transformers.utils import logging

import hf_compress
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.weights import WeightPruner

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.99)
REPEATS = 5


def weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def load_seconds(folder: Path, cached: bool) -> float:
    """Return the seconds until every weight is in memory: transformers only maps dense files, and reads them later."""
    if not cached:
        for file in folder.glob("*.safetensors"):
            with open(file, "rb") as content:
                os.fsync(content.fileno())
                os.posix_fadvise(content.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    started = time.perf_counter()
    model = AutoModelForImageClassification.from_pretrained(folder)
    for parameter in model.parameters():
        parameter.detach().sum()
    return time.perf_counter() - started


def load_ratio(dense: Path, sparse: Path, cached: bool) -> float:
    times = [(load_seconds(dense, cached), load_seconds(sparse, cached)) for _ in range(REPEATS)]
    dense_seconds, sparse_seconds = (statistics.median(column) for column in zip(*times, strict=True))
    return sparse_seconds / dense_seconds


def row(dense_model, sparsity: float, work: Path) -> str:
    model = copy.deepcopy(dense_model)
    WeightPruner(model, PruneSection(granularity="weight", floor=0), set()).prune(model, sparsity)
    dense, sparse = work / "dense", work / "sparse"
    model.save_pretrained(dense)
    hf_compress.save(model, sparse)
    return (
        f"| {sparsity:.0%} | {weight_bytes(dense) / 1e6:.1f} MB | {weight_bytes(sparse) / 1e6:.1f} MB "
        f"| {weight_bytes(sparse) / weight_bytes(dense):.3f} "
        f"| {load_ratio(dense, sparse, False):.2f} | {load_ratio(dense, sparse, True):.2f} |"
    )


def main() -> None:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(ViTConfig(num_labels=1000))
    print("| zeros | dense | sparse | size ratio | load time ratio, from disk | load time ratio, file cached |")
    print("|------:|------:|-------:|-----------:|---------------------------:|-----------------------------:|")
    with tempfile.TemporaryDirectory() as work:
        for sparsity in SPARSITIES:
            print(row(model, sparsity, Path(work)), flush=True)


if __name__ == "__main__":
    main()
