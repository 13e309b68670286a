"""Removing channels of ResNet-50: the `prune` step's pruner against bare torch-pruning.

    python benchmarks/channel_removal.py

Both take half of the channels of each group of one model at 224 pixels, by L1 norm, widths rounded to multiples of 8,
from the search for groups to the smaller model, on copies and in turn. The pruner also proves each group on copies.
"""

from __future__ import annotations

import copy
import statistics
import time

import torch
import torch_pruning
from torch import nn

from hf_compress.measure.cost import count_parameters
from hf_compress.models.students import build_registered
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner

AMOUNT, ROUND_TO, REPEATS = 0.5, 8, 5
LABELS = [str(label) for label in range(1000)]


def bare(model: nn.Module, image: torch.Tensor) -> None:
    pruner = torch_pruning.pruner.BasePruner(
        model,
        {"pixel_values": image},
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=AMOUNT,
        ignored_layers=[model.classifier],
        round_to=ROUND_TO,
        output_transform=lambda output: output.logits.sum(),
    )
    pruner.step()


def ours(model: nn.Module, image: torch.Tensor) -> None:
    config = PruneSection(amount=AMOUNT, importance="l1", round_to=ROUND_TO)
    ChannelPruner(model, image, config, set()).prune(model, AMOUNT)


def main() -> None:
    model = build_registered("resnet50", LABELS).model
    image = torch.randn(1, 3, 224, 224)
    methods = {"torch-pruning": bare, "hf_compress": ours}
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    left = {}
    for turn in range(1 + REPEATS):
        for name, prune in methods.items():
            smaller = copy.deepcopy(model)
            begun = time.perf_counter()
            prune(smaller, image)
            if turn:
                seconds[name].append(time.perf_counter() - begun)
            left[name] = count_parameters(smaller)
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    print("| half of the channels of ResNet-50 | time | of torch-pruning | parameters left |")
    print("|---|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {median:.2f} s | {median / medians['torch-pruning']:.2f} | {left[name] / 1e6:.2f} M |")


if __name__ == "__main__":
    main()
