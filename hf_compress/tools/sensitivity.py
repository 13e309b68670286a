"""How much accuracy each group of channels, or each weight, costs when a part of it goes."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel

from hf_compress.data.images import batches, input_size, spread
from hf_compress.ground.errors import RunError
from hf_compress.ground.files import user_path, whole_file
from hf_compress.ground.manifest import adding, claim
from hf_compress.measure.quality import accuracy
from hf_compress.steps.pruning.allocate.shares import COLUMNS
from hf_compress.steps.pruning.allocate.units import least_important
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.remove.weights import WeightPruner
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.scoring import score
from hf_compress.tools.evaluation import load_with_data

IMAGES, BATCH = 256, 32
RATIOS = (0.25, 0.5, 0.75)
Granularity = Literal["channel", "weight"]
Trial = tuple[str, int, float, Callable[[PreTrainedModel], None]]


@dataclass
class Measurement:
    """One group or weight, pruned alone.

    Attributes:
        name: layer that leads the group, or name of the weight.
        size: its channels, or entries.
        ratio: fraction that went, least important first.
        accuracy: on the validation images, without any training.
        drop: accuracy of the whole model minus this one.
    """

    name: str
    size: int
    ratio: float
    accuracy: float
    drop: float


def sensitivity(
    name: str,
    output: str | Path,
    *,
    data: str | None = None,
    granularity: Granularity = "channel",
    ratios: Sequence[float] = RATIOS,
    importance: str = "l1",
    trust_remote_code: bool = False,
) -> list[Measurement]:
    """Prune one group of channels, or one weight, at a time and measure accuracy on at most 256 validation images.

    Channels go in the groups in which they must go together, not layer by layer.

    Args:
        name: folder or Hub id.
        output: folder for `sensitivity.csv`, which the `prune` step reads, and `sensitivity.png`.
        data: the images; None takes those of a run folder's recipe.
        granularity: `channel` or `weight`.
        ratios: fractions to remove.
        importance: criterion that ranks channels or entries.
        trust_remote_code: run Python code of the repository.

    Raises:
        UsageError: files of these names are there that this package did not write, or that were changed since.
        RunError: the model's labels are not the data's, or nothing can be pruned.
    """
    folder = user_path(output)
    claim(folder, ["sensitivity.csv", "sensitivity.png"])
    loaded, images, same_labels = load_with_data(name, data, trust_remote_code)
    if not same_labels:
        raise RunError(f"the labels of {images.facts['path']} are not those of {name}: accuracy means nothing")
    inputs = list(batches(spread(images.validation, IMAGES), loaded.processor, BATCH))
    image = torch.zeros(1, 3, *input_size(loaded.processor))
    config = PruneSection(granularity=granularity, importance=importance, round_to=1, floor=0.0)
    calibration = Calibration(spread(images.train, config.calibration), loaded.processor, loaded.model)
    trials = list(
        _channel_trials(loaded.model, image, config, calibration, ratios)
        if granularity == "channel"
        else _weight_trials(loaded.model, config, calibration, ratios)
    )
    baseline = _accuracy(loaded.model, inputs)
    measurements = []
    for part, size, ratio, prune in track(trials, "Measuring sensitivity", transient=True):
        trial = copy.deepcopy(loaded.model)
        prune(trial)
        found = _accuracy(trial, inputs)
        measurements.append(Measurement(part, size, ratio, found, baseline - found))
    with adding(folder) as new:
        _write(measurements, new / "sensitivity.csv")
        _draw(measurements, baseline, new / "sensitivity.png")
    return measurements


def _channel_trials(
    model: PreTrainedModel, image: Tensor, config: PruneSection, calibration: Calibration, ratios: Sequence[float]
) -> Iterator[Trial]:
    pruner = ChannelPruner(model, image, config, set())
    groups = pruner.groups(model)
    scores = score(model, groups, config, calibration)
    for group in groups:
        order = least_important(scores[group.name], group.units)
        for ratio in ratios:
            units = order[: min(round(ratio * group.units), group.units - 1)]
            if units:
                plan = {group.name: units}
                yield group.name, group.width, ratio, lambda trial, plan=plan: pruner.apply(trial, groups, plan)


def _weight_trials(
    model: PreTrainedModel, config: PruneSection, calibration: Calibration, ratios: Sequence[float]
) -> Iterator[Trial]:
    pruner = WeightPruner(model, config, set())
    groups = pruner.groups(model)
    for name, scores in score(model, groups, config, calibration).items():
        for ratio in ratios:
            alone = {name: scores}
            yield name, len(scores), ratio, lambda trial, alone=alone, ratio=ratio: pruner.remove(trial, alone, ratio)


def _accuracy(model: PreTrainedModel, inputs: list[dict[str, Tensor]]) -> float:
    with torch.inference_mode():
        logits = torch.cat([model.eval()(pixel_values=batch["pixel_values"]).logits for batch in inputs])
    return accuracy(logits, torch.cat([batch["labels"] for batch in inputs]))["accuracy"]


def _write(measurements: list[Measurement], file: Path) -> None:
    with whole_file(file) as new, open(new, "w", encoding="utf-8", newline="") as target:
        writer = csv.DictWriter(target, COLUMNS)
        writer.writeheader()
        writer.writerows(asdict(measurement) for measurement in measurements)


def _draw(measurements: list[Measurement], baseline: float, file: Path) -> None:
    """Draw accuracy as colour: one line a group or weight, one column a ratio."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(m.name for m in measurements))
    ratios = sorted({m.ratio for m in measurements})
    grid = torch.full((len(names), len(ratios)), torch.nan)
    for m in measurements:
        grid[names.index(m.name), ratios.index(m.ratio)] = m.accuracy
    figure = Figure(figsize=(5 + len(ratios), 1.5 + 0.22 * len(names)), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(grid.numpy(), vmin=0, vmax=baseline, aspect="auto", cmap="viridis")
    axes.set_xticks(range(len(ratios)), [f"{ratio:.0%}" for ratio in ratios])
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel("removed")
    figure.colorbar(picture, label=f"accuracy (unpruned: {baseline:.3f})")
    with whole_file(file) as new:
        figure.savefig(new, dpi=120)
