"""What each group of channels, or each weight, costs in quality when a part of it goes."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel

from hf_compress.data.images import batches, input_size, spread
from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import user_path, whole_file
from hf_compress.ground.manifest import adding, claim
from hf_compress.steps import STEPS
from hf_compress.steps.pruning.allocate.units import least_important
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.remove.weights import WeightPruner
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.scoring import score
from hf_compress.tasks import Metric, Task
from hf_compress.tasks.base import Predictions
from hf_compress.tools.evaluation import load_with_data, saved_task

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
        metric: the one that decides for the model's task.
        value: of the metric, on the validation images, without any training.
        drop: how much worse than that of the whole model; negative where it is better.
    """

    name: str
    size: int
    ratio: float
    metric: Metric
    value: float
    drop: float

    @property
    def change(self) -> float:
        """The value minus that of the whole model."""
        return -self.drop if self.metric.higher_is_better else self.drop


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
    """Prune one group of channels, or one weight, at a time and measure the model on at most 256 validation images.

    It is measured by the metric that decides for its task: accuracy, where that is classification. Channels go in the
    groups in which they must go together, not layer by layer.

    Args:
        name: folder or Hub id.
        output: folder for `sensitivity.csv`, which the `prune` step reads, and `sensitivity.png`.
        data: the images; None takes those of a run folder's recipe.
        granularity: `channel` or `weight`.
        ratios: fractions to remove.
        importance: criterion that ranks channels or entries.
        trust_remote_code: run Python code of the repository.

    Raises:
        UsageError: files of these names are there that this package did not write, or that were changed since; or
            models of this task are not pruned.
        RunError: the model's labels are not the data's, or nothing can be pruned.
    """
    folder = user_path(output)
    claim(folder, ["sensitivity.csv", "sensitivity.png"])
    task = saved_task(name)
    if not task.takes(STEPS.get("prune")):
        raise UsageError(f"sensitivity is measured for the step 'prune', which 'task: {task.name}' does not have")
    loaded, images = load_with_data(task, name, data, trust_remote_code)
    images = task.require_labels(loaded, images)
    inputs = list(batches(spread(images.validation, IMAGES), loaded.processor, BATCH, task.targets))
    image = torch.zeros(1, 3, *input_size(loaded.processor))
    config = PruneSection(granularity=granularity, importance=importance, round_to=1, floor=0.0)
    calibration = Calibration(spread(images.train, config.calibration), loaded.processor, loaded.model, task)
    trials = list(
        _channel_trials(loaded.model, image, config, calibration, ratios)
        if granularity == "channel"
        else _weight_trials(loaded.model, config, calibration, ratios)
    )
    metric, baseline = task.deciding, _judged(loaded.model, task, inputs)
    measurements = []
    for part, size, ratio, prune in track(trials, "Measuring sensitivity", transient=True):
        trial = copy.deepcopy(loaded.model)
        prune(trial)
        found = _judged(trial, task, inputs)
        measurements.append(Measurement(part, size, ratio, metric, found, metric.lost(found, baseline)))
    with adding(folder) as new:
        _write(measurements, metric, new / "sensitivity.csv")
        _draw(measurements, metric, baseline, new / "sensitivity.png")
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


def _judged(model: PreTrainedModel, task: Task, inputs: list[dict[str, Tensor]]) -> float:
    """Return the task's deciding metric."""
    with torch.inference_mode():
        said = [task.outputs(task.forward(model.eval(), batch)) for batch in inputs]
    outputs = {name: torch.cat([each[name] for each in said]) for name in said[0]}
    labels = torch.cat([batch["labels"] for batch in inputs])
    return task.decide(Predictions(outputs, labels))[task.deciding.name]


def _write(measurements: list[Measurement], metric: Metric, file: Path) -> None:
    with whole_file(file) as new, open(new, "w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["name", "size", "ratio", metric.name, "drop"])
        writer.writerows([m.name, m.size, m.ratio, m.value, m.drop] for m in measurements)


def _draw(measurements: list[Measurement], metric: Metric, baseline: float, file: Path) -> None:
    """Draw the metric as colour, the better the brighter: one line a group or weight, one column a ratio."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(m.name for m in measurements))
    ratios = sorted({m.ratio for m in measurements})
    grid = torch.full((len(names), len(ratios)), torch.nan)
    for m in measurements:
        grid[names.index(m.name), ratios.index(m.ratio)] = m.value
    figure = Figure(figsize=(5 + len(ratios), 1.5 + 0.22 * len(names)), layout="constrained")
    axes = figure.subplots()
    if metric.higher_is_better:
        colours = {"vmin": 0, "vmax": baseline, "cmap": "viridis"}
    else:
        colours = {"vmin": baseline, "vmax": max(m.value for m in measurements), "cmap": "viridis_r"}
    picture = axes.imshow(grid.numpy(), aspect="auto", **colours)
    axes.set_xticks(range(len(ratios)), [f"{ratio:.0%}" for ratio in ratios])
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel("removed")
    figure.colorbar(picture, label=f"{metric.words} (unpruned: {baseline:.3f})")
    with whole_file(file) as new:
        figure.savefig(new, dpi=120)
