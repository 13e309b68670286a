"""What each group of channels, or each weight, costs in quality when a part of it goes."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from hf_compress.data import ImageData
from hf_compress.data.boxes import PADDING
from hf_compress.data.images import batches, fitting_batch, input_size, spread
from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import user_path, whole_file
from hf_compress.ground.looking import twin
from hf_compress.ground.manifest import adding, claim
from hf_compress.ground.processor import fastest_device
from hf_compress.ground.progress import track
from hf_compress.models.load import LoadedModel
from hf_compress.steps import STEPS
from hf_compress.steps.pruning.allocate.units import least_important
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.remove.removal import Kept
from hf_compress.steps.pruning.remove.weights import WeightPruner
from hf_compress.steps.pruning.repair.least_squares import least_squares
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.score.scoring import score
from hf_compress.tasks import Metric, Task
from hf_compress.tasks.base import Predictions
from hf_compress.tools.evaluation import load_with_data, saved_task
from hf_compress.training.batch_norms import reestimate_batch_norm
from hf_compress.training.context import Context

IMAGES, BATCH = 256, 32
RATIOS = (0.25, 0.5, 0.75)
Granularity = Literal["channel", "weight"]
Repair = Literal["least_squares", "batch_norm", "none"]


@dataclass
class Trial:
    """What is to be measured.

    Attributes:
        name, size, ratio: see `Measurement`.
        prune: takes the units out of a copy of the model, and tells what is left.
        layers: those that can make up for it.
    """

    name: str
    size: int
    ratio: float
    prune: Callable[[PreTrainedModel], Kept]
    layers: set[str]


@dataclass
class Measurement:
    """One group or weight, pruned alone.

    Attributes:
        name: layer that leads the group, or name of the weight.
        size: its channels, or entries.
        ratio: fraction that went, least important first.
        metric: the one that decides for the model's task.
        value: of the metric, on the validation images, after the repair and without any training.
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
    repair: Repair = "least_squares",
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
        repair: what is done before the model is measured: `least_squares` solves anew the layers that read the group,
            or the layer of the weight; `batch_norm` re-estimates the statistics of batch norms.
        trust_remote_code: run Python code of the repository.

    Raises:
        UsageError: a ratio is no fraction; files of these names are there that this package did not write, or that
            were changed since; or models of this task are not pruned.
        RunError: the model's labels are not the data's, or nothing can be pruned.
    """
    if wrong := [ratio for ratio in ratios if not 0 < ratio < 1]:
        raise UsageError(f"'ratio' cannot be {wrong[0]:g}: a fraction lies between 0 and 1 (0.3: three tenths)")
    folder = user_path(output)
    claim(folder, ["sensitivity.csv", "sensitivity.png"])
    task = saved_task(name)
    if not task.takes(STEPS.get("prune")):
        raise UsageError(f"sensitivity is measured for the step 'prune', which 'task: {task.name}' does not have")
    loaded, images = load_with_data(task, name, data, trust_remote_code)
    images = task.require_labels(loaded, images)
    inputs = list(
        batches(
            spread(images.validation, IMAGES), loaded.processor, fitting_batch(loaded.processor, BATCH), task.targets
        )
    )
    image = torch.zeros(1, 3, *input_size(loaded.processor))
    single = {"round_to": 1} if granularity == "channel" else {}
    config = PruneSection(granularity=granularity, importance=importance, floor=0.0, **single)
    calibration = Calibration(spread(images.train, config.calibration), loaded.processor, loaded.model, task)
    mend = _repairer(repair, loaded, images, calibration)
    trials = list(
        _channel_trials(loaded.model, image, config, calibration, ratios)
        if granularity == "channel"
        else _weight_trials(loaded.model, config, calibration, ratios)
    )
    metric, baseline = task.deciding, _judged(loaded, task, inputs)
    measurements = []
    for trial in track(trials, "Measuring sensitivity"):
        model = copy.deepcopy(loaded.model)
        mend(model, trial.prune(model), trial.layers)
        found = _judged(replace(loaded, model=model), task, inputs)
        drop = metric.lost(found, baseline)
        measurements.append(Measurement(trial.name, trial.size, trial.ratio, metric, found, drop))
    with adding(folder) as new:
        _write(measurements, metric, repair, new / "sensitivity.csv")
        _draw(measurements, metric, baseline, repair, new / "sensitivity.png")
    return measurements


def _repairer(
    repair: Repair, unpruned: LoadedModel, data: ImageData, calibration: Calibration
) -> Callable[[PreTrainedModel, Kept, set[str]], None]:
    """Return what repairs a pruned model in place: what is left of it and the layers that can make up for it go in."""
    device = fastest_device()
    if repair == "least_squares":
        images, whole = list(calibration.pixel_values()), twin(unpruned.model).to(device)
    context = Context(data, unpruned.processor, None, 0, Path())

    def mend(model: PreTrainedModel, kept: Kept, layers: set[str]) -> None:
        model.eval().to(device)
        if repair == "least_squares":
            least_squares(whole, model, kept, images, [] if kept else [f"{name}.weight" for name in layers], layers)
        elif repair == "batch_norm":
            reestimate_batch_norm(model, context)
        model.cpu()

    return mend


def _channel_trials(
    model: PreTrainedModel, image: Tensor, config: PruneSection, calibration: Calibration, ratios: Sequence[float]
) -> Iterator[Trial]:
    pruner = ChannelPruner(model, image, config, set())
    groups = pruner.groups(model)
    scores = score(model, groups, config, calibration)
    for group in groups:
        readers = {member.axis.module for member in group.members if member.reads}
        order = least_important(scores[group.name], group.units)
        for ratio in ratios:
            units = order[: min(round(ratio * group.units), group.units - 1)]
            if units:
                prune = partial(pruner.apply, groups=groups, removed={group.name: units})
                yield Trial(group.name, group.width, ratio, prune, readers)


def _weight_trials(
    model: PreTrainedModel, config: PruneSection, calibration: Calibration, ratios: Sequence[float]
) -> Iterator[Trial]:
    pruner = WeightPruner(model, config, set())
    groups = pruner.groups(model)
    for name, scores in score(model, groups, config, calibration).items():
        for ratio in ratios:
            prune = partial(pruner.remove, scores={name: scores}, amount=ratio)
            yield Trial(name, len(scores), ratio, prune, {name.removesuffix(".weight")})


def _judged(loaded: LoadedModel, task: Task, inputs: list[dict[str, Tensor]]) -> float:
    """Return the task's deciding metric."""
    with torch.inference_mode():
        said = [task.kept(task.forward(loaded.model.eval(), batch), batch, loaded.processor) for batch in inputs]
    outputs = {name: torch.cat([each[name] for each in said]) for name in said[0]}
    labels = torch.cat(_padded([task.targets_kept(batch["labels"]) for batch in inputs]))
    return task.decide(Predictions(outputs, labels))[task.deciding.name]


def _padded(targets: list[Tensor]) -> list[Tensor]:
    """Return targets of all batches with as many objects a picture, where they are objects."""
    if targets[0].dim() < 3:
        return targets
    most = max(each.shape[1] for each in targets)
    return [F.pad(each, (0, 0, 0, most - each.shape[1]), value=PADDING) for each in targets]


def _write(measurements: list[Measurement], metric: Metric, repair: Repair, file: Path) -> None:
    with whole_file(file) as new, open(new, "w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["name", "size", "ratio", metric.name, "drop", "repair"])
        writer.writerows([m.name, m.size, m.ratio, m.value, m.drop, repair] for m in measurements)


def _draw(measurements: list[Measurement], metric: Metric, baseline: float, repair: Repair, file: Path) -> None:
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
    axes.set_xlabel(f"removed (repair: {repair})")
    figure.colorbar(picture, label=f"{metric.words} (unpruned: {baseline:.3f})")
    with whole_file(file) as new:
        figure.savefig(new, dpi=120)
