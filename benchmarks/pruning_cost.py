"""What pruning without training costs: seconds and memory of scores, allocation and repair by number of images.

    python benchmarks/pruning_cost.py

ResNet-50 and ViT-B/16 with random weights lose 40 % of their MACs at 224 pixels: `importance: obs`, `scope: cost`,
`repair: least_squares`. Each row is a process by itself. Memory is what is resident at most, and what of that came
after the model was loaded.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from hf_compress.models.load import LoadedModel
from hf_compress.models.students import build_registered
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.loop import _fractions_gone
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.repair.least_squares import least_squares
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.scoring import score
from hf_compress.steps.pruning.targets import removed_to_target
from hf_compress.tasks.classification import CLASSIFICATION

IMAGES = (64, 128, 256)
CONFIG = PruneSection(importance="obs", scope="cost", target={"macs": 0.4}, iterative=False, repair="least_squares")


def built(name: str) -> LoadedModel:
    torch.manual_seed(0)
    if name == "resnet50":
        return build_registered(name, [str(label) for label in range(1000)])
    config = ViTConfig(num_labels=1000)
    return LoadedModel(ViTForImageClassification(config), ViTImageProcessor(), name)


def resident() -> float:
    """Return the largest resident memory so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def measured(name: str, count: int) -> dict[str, float]:
    loaded = built(name)
    model = loaded.model.eval()
    generator = torch.Generator().manual_seed(0)
    images = [
        {"view": torch.randint(0, 256, (3, 224, 224), dtype=torch.uint8, generator=generator), "label": -100}
        for _ in range(count)
    ]
    image = torch.zeros(1, 3, 224, 224)
    calibration = Calibration(images, loaded.processor, model, CLASSIFICATION)
    model(pixel_values=image)
    before, row, begun = resident(), {}, time.perf_counter()

    def lap(what: str) -> None:
        nonlocal begun
        now = time.perf_counter()
        row[what], begun = now - begun, now

    pruner = ChannelPruner(model, image, CONFIG, set())
    lap("groups")
    scores = score(model, pruner.groups(model), CONFIG, calibration)
    lap("scores")
    gone = _fractions_gone(model, image, pruner)
    smaller, kept, _ = removed_to_target(model, scores, pruner, gone, CONFIG, 0.0, 1 - CONFIG.floor)
    lap("allocation")
    least_squares(model, smaller, kept, calibration.pixel_values())
    lap("repair")
    return row | {"peak": resident(), "more": resident() - before}


def main() -> None:
    print(
        "| model | images | groups, s | scores, s | allocation, s | repair, s | in all | memory, GB | after loading |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for name in ("resnet50", "vit-b16"):
        for count in IMAGES:
            said = subprocess.run(
                [sys.executable, __file__, name, str(count)], check=True, capture_output=True, text=True
            ).stdout
            row = json.loads(said.splitlines()[-1])
            times = [row[part] for part in ("groups", "scores", "allocation", "repair")]
            cells = [f"{seconds:.0f}" for seconds in (*times, sum(times))]
            print(
                "|",
                " | ".join([name, str(count), *cells, f"{row['peak']:.1f}", f"{row['more']:.1f}"]),
                "|",
                flush=True,
            )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measured(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
