"""Which weights to prune: global magnitude pruning of ViT-B/16 against `torch.nn.utils.prune`, and of 1 G weights.

    python benchmarks/selection_of_weights.py

Both prune copies of one model in turn, each in its own process, which also reports the peak of its memory over that of
the model. The masks must be equal, but for entries whose magnitude is exactly the threshold, among which any may go.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

AMOUNT = 0.9
REPEATS = 3
SIZES = (125_000_000, 250_000_000, 500_000_000, 1_000_000_000)


def vit():
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    return ViTForImageClassification(ViTConfig(num_labels=1000)).eval()


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def ours(model) -> None:
    from hf_compress.steps.pruning.config import PruneSection
    from hf_compress.steps.pruning.remove.weights import WeightPruner

    config = PruneSection(granularity="weight", scope="global", floor=0)
    WeightPruner(model, config, set()).prune(model, AMOUNT)


def torchs(model) -> None:
    from torch.nn.utils import prune

    from hf_compress.steps.pruning.remove.weights import PRUNABLE

    layers = [(module, "weight") for module in model.modules() if isinstance(module, PRUNABLE)]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=AMOUNT)
    for module, name in layers:
        prune.remove(module, name)


def once(method: str) -> dict[str, float]:
    """Prune in this process; return seconds and MB over the model's own."""
    import hf_compress.steps.pruning.remove.weights  # noqa: F401  (imported here, so that no import is timed)

    model = vit()
    before = peak_mb()
    begun = time.perf_counter()
    {"ours": ours, "torch": torchs}[method](model)
    return {"seconds": time.perf_counter() - begun, "mb": peak_mb() - before}


def in_a_process(*arguments: str) -> dict[str, float]:
    result = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True)
    return json.loads(result.stdout)


def same_masks() -> tuple[int, int]:
    """Return how many weights differ, and how many of these are not at the threshold."""
    import torch

    dense, left, right = vit(), vit(), vit()
    ours(left)
    torchs(right)
    differing, wrong = 0, 0
    kept = min(p.abs()[p != 0].min() for n, p in left.named_parameters() if p.dim() > 1 and (p == 0).any())
    pruned, whole = dict(right.named_parameters()), dict(dense.named_parameters())
    for name, a in left.named_parameters():
        b, weight = pruned[name], whole[name]
        other = (a == 0) != (b == 0)
        differing += int(other.sum())
        wrong += int((torch.nextafter(weight.abs()[other], torch.tensor(torch.inf)) < kept).sum())
    return differing, wrong


def synthetic(size: int) -> dict[str, float]:
    import torch

    from hf_compress.steps.pruning.allocate.masks import keep_masks

    scores = {"all": torch.rand(size)}
    begun = time.perf_counter()
    keep_masks(scores, "global", AMOUNT, 0.1)
    return {"seconds": time.perf_counter() - begun}


def main() -> None:
    runs = {"ours": [], "torch": []}
    for _ in range(REPEATS):
        for method, results in runs.items():
            results.append(in_a_process(method))
    seconds = {method: statistics.median(run["seconds"] for run in results) for method, results in runs.items()}
    memory = {method: statistics.median(run["mb"] for run in results) for method, results in runs.items()}
    differing, wrong = same_masks()
    print("| global magnitude pruning of ViT-B/16, 90 % | torch.nn.utils.prune | hf_compress | ratio |")
    print("|---|---|---|---|")
    print(f"| time | {seconds['torch']:.2f} s | {seconds['ours']:.2f} s | {seconds['torch'] / seconds['ours']:.1f}x |")
    ratio = memory["ours"] / memory["torch"]
    print(f"| extra memory | {memory['torch']:.0f} MB | {memory['ours']:.0f} MB | {ratio:.2f} |")
    print(f"\nMasks: {differing} of 86 M weights differ, {wrong} of them not at the threshold.\n")
    print("| weights | time | time per weight |")
    print("|---|---|---|")
    for size in SIZES:
        taken = in_a_process("synthetic", str(size))["seconds"]
        print(f"| {size / 1e6:.0f} M | {taken:.1f} s | {taken / size * 1e9:.1f} ns |")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(synthetic(int(sys.argv[2])) if sys.argv[1] == "synthetic" else once(sys.argv[1])))
    else:
        main()
