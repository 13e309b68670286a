"""Pruning in one shot, or in rounds until the best compromise of quality and size."""

from __future__ import annotations

import copy
import fnmatch
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_compress.checkpoint import load_like, save
from hf_compress.data.images import input_size, spread
from hf_compress.ground import processes
from hf_compress.ground.errors import Diverged, DoesNotRun, RunError
from hf_compress.ground.files import read_json, write_json
from hf_compress.ground.tensors import use_channels_last
from hf_compress.ground.units import Units
from hf_compress.measure.cost import count_macs, count_parameters
from hf_compress.models.load import LoadedModel
from hf_compress.steps.base import StepResult
from hf_compress.steps.pruning.allocate.rounding import fastest_multiple
from hf_compress.steps.pruning.config import PruneSection
from hf_compress.steps.pruning.recovery import recover
from hf_compress.steps.pruning.remove.blocks import BlockPruner
from hf_compress.steps.pruning.remove.channels import ChannelPruner
from hf_compress.steps.pruning.remove.pruner import Pruner
from hf_compress.steps.pruning.remove.uniform import UniformPruner
from hf_compress.steps.pruning.remove.weights import PatternPruner, WeightPruner
from hf_compress.steps.pruning.repair import repair
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.pruning.targets import Gone, is_reached, refuse_unreachable, removed_to_target, shortfall
from hf_compress.steps.pruning.timing import Stopwatch
from hf_compress.tasks.base import Metric
from hf_compress.training.context import Context
from hf_compress.training.predicting import evaluate

ROW = "round.json"
SEARCHED = 7


def prune_model(model: PreTrainedModel, context: Context, config: PruneSection) -> StepResult:
    """Prune `model` as the recipe says.

    Each round scores the best model so far, removes units of a copy, repairs and trains that, and keeps it when its
    validation accuracy is at most `max_drop` under the unpruned model's. A round that falls further, or whose loss is
    not finite any more, is tried again with half the amount, then given up. In one shot there is one round, and it is
    kept; with `target.accuracy` there are several, each from the unpruned model and without training, which search the
    amount, and one more that trains what they found.

    Returns:
        The smallest model kept, and one row a round.

    Raises:
        RunError: nothing can be pruned, or not as much as the target asks for.
    """
    torch.manual_seed(context.seed)
    units = Units(context.part(), context.seed)
    use_channels_last(model)  # as evaluation would, which is not repeated after an interruption: sums keep their order
    exclude = excluded_layers(model, config.exclude)
    image = torch.zeros(1, 3, *input_size(context.processor))
    rounding: dict[str, Any] = {}
    if config.round_to == "auto":
        multiple, figures = units.value("round to", lambda: fastest_multiple(model, image), alone=True)
        rounding = {"rounding": {"round_to": multiple, "relative_time": figures}}
        config = config.model_copy(update={"round_to": multiple})
        context.log(f"round_to: {multiple} (time per MAC by multiple, relative to the best: {figures})")
    pruner = build_pruner(model, image, config, exclude)
    if config.granularity == "n:m":
        n, m = config.n_of_m
        config = config.model_copy(update={"iterative": False, "amount": 1 - n / m, "floor": 0.0})
        for layer, reason in pruner.protected.items():
            context.log(f"'{layer}' stays whole: {reason}")
    unpruned = LoadedModel(copy.deepcopy(model), context.processor, "the unpruned model")
    stopwatch = Stopwatch(unpruned.model, image, context.measure)
    if config.budget == "latency":
        pruner.milliseconds = units.value("milliseconds", lambda: pruner.measure(model, stopwatch), alone=True)
    if isinstance(pruner, WeightPruner):
        context = replace(context, sparse_parameters=context.sparse_parameters | pruner.parameter_names)
    gone = _fractions_gone(model, image, pruner)
    time_gone = stopwatch.time_gone if config.target and config.target.metric == "latency" else None

    def most_gone(pruned: PreTrainedModel) -> dict[str, float]:
        timed = time_gone and units.value("most time", lambda: {"latency": time_gone(pruned)}, alone=True)
        return gone(pruned) | (timed or {})

    refuse_unreachable(model, pruner, most_gone, config)
    baseline = units.value("unpruned", lambda: _validated(model, context))
    metric = context.task.deciding
    context.log(f"unpruned: validation {metric.words} {baseline:.4f}")
    rounds = _Rounds(context, config, pruner, gone, unpruned, baseline, units, time_gone)
    is_search = config.target is not None and config.target.metric == "accuracy"
    best, rows, reached = rounds.search(model) if is_search else rounds.run(model)
    if not rows:
        if config.granularity == "block":
            raise RunError(f"nothing was pruned: with 'floor' {config.floor:g} no whole block can go; lower it")
        raise RunError("nothing was pruned: every width is already at its floor; lower 'floor' or 'round_to'")
    return StepResult(
        best,
        {
            "rounds": [{"round": number} | _asked(config) | row for number, row in enumerate(rows, start=1)],
            f"unpruned_validation_{metric.name}": baseline,
            "target_reached": reached if config.target else None,
            "protected_layers": pruner.protected,
            **rounding,
            **({"unit_milliseconds": pruner.milliseconds} if config.budget == "latency" else {}),
            **shortfall(rows, config, metric.words, context.log),
        },
        context.sparse_parameters,
    )


def foresee(loaded: LoadedModel, config: PruneSection) -> None:
    """Raise `RunError` where a model of this architecture, trained or not, cannot be pruned to the target."""
    config = config if config.round_to != "auto" else config.model_copy(update={"round_to": 1})
    image = torch.zeros(1, 3, *input_size(loaded.processor))
    model = loaded.model.eval()
    pruner = build_pruner(model, image, config, excluded_layers(model, config.exclude))
    refuse_unreachable(model, pruner, _fractions_gone(model, image, pruner), config)


@dataclass(frozen=True)
class _Rounds:
    """The rounds of a pruning step, each of which is a unit, and what they have in common."""

    context: Context
    config: PruneSection
    pruner: Pruner
    gone: Gone
    unpruned: LoadedModel
    baseline: float
    units: Units
    time_gone: Callable[[PreTrainedModel], float] | None = None

    def run(self, model: PreTrainedModel) -> tuple[PreTrainedModel, list[dict[str, Any]], bool]:
        """Return the smallest model kept, one row a round, and whether the target was reached."""
        config, rows = self.config, []
        best, done, step = model, 0.0, config.amount if config.iterative or not config.target else 1.0
        limit = 1 - config.floor
        retried = reached = False
        for number in itertools.count(1):
            if reached or done >= limit:
                break
            candidate, row = self._round(number, best, done, min(done + step, limit))
            if "broken" in row:
                if not rows:
                    raise DoesNotRun(row["broken"])
                self.context.log(f"no further round: {row['broken']}")
                break
            if row["unchanged"]:
                done = row["amount"]
                continue
            self._add(row, rows, "round {}")
            if row["kept"]:
                best, done = candidate, row["amount"]
                reached = is_reached(row, config)
                if not config.iterative:
                    break
            elif retried:
                break
            else:
                step, retried = step / 2, True
        return best, rows, reached

    def search(self, model: PreTrainedModel) -> tuple[PreTrainedModel, list[dict[str, Any]], bool]:
        """Return the smallest model that loses no more than `target.accuracy`, one row a candidate, and that it is so.

        The amount is bisected; candidates are repaired and judged, and the last one that is kept is trained. Training
        that makes it lose more is undone.

        Raises:
            RunError: no candidate loses so little.
        """
        rows: list[dict[str, Any]] = []
        best, low, high = None, 0.0, 1 - self.config.floor
        for number in range(1, SEARCHED + 1):
            middle = (low + high) / 2
            candidate, row = self._judging(epochs=0)._round(number, model, 0.0, middle)
            if "broken" in row:
                self.context.log(f"no candidate {number} of {SEARCHED}: {row['broken']}")
            elif not row["unchanged"]:
                self._add(row, rows, f"candidate {{}} of {SEARCHED}")
            if row["kept"]:
                best, facts = candidate, row
            low, high = (middle, high) if row["kept"] or row["unchanged"] else (low, middle)
        if best is None and "broken" in row and not rows:
            raise DoesNotRun(row["broken"])
        if best is None:
            least = min((row["sparsity"] for row in rows), default=0.0)
            raise RunError(
                f"'prune.target.accuracy' {self.config.target.value:g} cannot be kept: even sparsity {least:.1%} "
                f"costs more of validation {self.context.task.deciding.words}; raise it, or train between rounds "
                "('iterative: true', with 'max_drop')"
            )
        if self.config.recovery.epochs:
            best, row = self._trained(best, facts)
            self._add(row, rows, "trained")
        return best, rows, True

    def _judging(self, epochs: int) -> _Rounds:
        """Return rounds that judge a candidate of the search as `max_drop` would."""
        recovery = self.config.recovery.model_copy(update={"epochs": epochs})
        judging = {"iterative": True, "max_drop": self.config.target.value, "target": None, "recovery": recovery}
        return replace(self, config=self.config.model_copy(update=judging))

    def _trained(self, best: PreTrainedModel, row: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Return a trained copy of a candidate, or `best` itself where that is not kept, and what came of it."""
        removed = {key: value for key, value in row.items() if not key.startswith("validation_")}
        judging = self._judging(self.config.recovery.epochs)

        def train_copy(in_progress: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
            candidate = copy.deepcopy(best)
            return candidate, removed | judging._recovered(candidate, in_progress)

        return self._once("trained", best, train_copy)

    def _round(
        self, number: int, best: PreTrainedModel, done: float, amount: float
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Return a pruned and trained copy of `best`, or `best` where that is not kept, and what came of it."""

        def prune_and_train(in_progress: Path) -> tuple[PreTrainedModel, dict[str, Any]]:
            candidate, row = self._candidate(best, done, amount, in_progress)
            if "broken" in row:
                return best, row | {"unchanged": False, "kept": False}
            gone = self.gone(candidate)
            row |= {"unchanged": gone == self.gone(best) and not self._is_there_already(gone), "kept": False}
            if not row["unchanged"]:
                row |= gone | self._recovered(candidate, in_progress)
            elif not self.config.iterative:
                raise RunError(f"nothing was pruned: amount {self.config.amount} is less than {self.pruner.least}")
            return candidate, row

        return self._once(f"round {number}", best, prune_and_train)

    def _is_there_already(self, gone: dict[str, float]) -> bool:
        """Tell whether a model came with the zeros that one shot of pruning asks for: training goes on with them."""
        return not self.config.iterative and isinstance(self.pruner, WeightPruner) and gone["sparsity"] > 0

    def _once(
        self, name: str, best: PreTrainedModel, make: Callable[[Path], tuple[PreTrainedModel, dict[str, Any]]]
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Do what makes a candidate and its row, as a unit; where it is not kept, return `best` in its place."""

        def work(new: Path, in_progress: Path) -> None:
            candidate, row = make(in_progress)
            if row["kept"]:
                save(candidate, new)
            write_json(new / ROW, row)

        folder = self.units.once(name, work)
        row = read_json(folder / ROW)
        return load_like(best, folder) if row["kept"] else best, row

    def _add(self, row: dict[str, Any], rows: list[dict[str, Any]], name: str) -> None:
        """Add what came of a round to the rows of the report, and say it."""
        rows.append({key: value for key, value in row.items() if key != "unchanged"})
        self.context.log(f"{name.format(len(rows))}: {_outcome(row, self.context.task.deciding)}")

    def _candidate(
        self, best: PreTrainedModel, done: float, amount: float, in_progress: Path
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Return a pruned and repaired copy of `best`, and what came of it; of several processes, the main one's.

        What was decided by time stays decided, whatever interrupts the training that follows.
        """
        if processes.count() == 1 and self.time_gone is None:
            return self._pruned(best, done, amount)

        def work(new: Path, _: Path) -> None:
            candidate, row = self._pruned(best, done, amount)
            save(candidate, new)
            write_json(new / ROW, row)

        folder = Units(in_progress, self.units.seed).once("pruned", work, alone=True)
        return load_like(best, folder), read_json(folder / ROW)

    def _pruned(self, best: PreTrainedModel, done: float, amount: float) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Return a pruned and repaired copy, and its amount: the given one, or the least that meets the target.

        Where no such copy runs, the row says why under `broken`, and the model is `best`.
        """
        images = spread(self.context.data.train, self.config.calibration)
        calibration = Calibration(images, self.context.processor, self.unpruned.model, self.context.task)
        scores = self.pruner.scores(best, amount, calibration)
        try:
            candidate, kept, row = removed_to_target(
                best, scores, self.pruner, self.gone, self.config, done, amount, self.time_gone
            )
        except DoesNotRun as error:
            return best, {"broken": str(error)}
        return candidate, row | repair(best, candidate, kept, calibration, self.context, self.config)

    def _recovered(self, candidate: PreTrainedModel, in_progress: Path) -> dict[str, Any]:
        """Train a pruned model and judge it; one whose loss is not finite any more has fallen too far."""
        config, context = self.config, replace(self.context, work_folder=in_progress)
        try:
            row = recover(candidate, context, config.recovery, self.unpruned) if config.recovery.epochs else {}
        except Diverged as error:
            if not config.iterative:
                raise
            return {"diverged": str(error).partition(":")[0], "kept": False}
        metric, found = context.task.deciding, _validated(candidate, context)
        kept = not config.iterative or metric.keeps(found, self.baseline, config.max_drop)
        return row | {f"validation_{metric.name}": found, "kept": kept}


def build_pruner(model: PreTrainedModel, image: Tensor, config: PruneSection, exclude: set[str]) -> Pruner:
    """Return what prunes `model` and copies of it as the recipe says; weights alone need no `image`."""
    if config.granularity == "channel" and config.layout == "config":
        return UniformPruner(model, image, config, exclude)
    if config.granularity == "channel":
        return ChannelPruner(model, image, config, exclude)
    if config.granularity == "block":
        return BlockPruner(model, image, config, exclude)
    if config.granularity == "n:m":
        return PatternPruner(model, config, exclude)
    return WeightPruner(model, config, exclude)


def _validated(model: PreTrainedModel, context: Context) -> float:
    """Return the task's deciding metric on the validation images."""
    task = context.task
    return evaluate(model, context.processor, context.data, "validation", task)[task.deciding.name]


def _fractions_gone(model: PreTrainedModel, image: Tensor, pruner: Pruner) -> Gone:
    """Return a function that tells which fractions of `model`'s weights, parameters and MACs a pruned copy lacks."""
    parameters, macs = count_parameters(model), count_macs(model, image)

    def gone(pruned: PreTrainedModel) -> dict[str, float]:
        return {
            "sparsity": pruner.sparsity(pruned),
            "parameters": 1 - count_parameters(pruned) / parameters,
            "macs": 1 - count_macs(pruned, image) / macs,
        }

    return gone


def excluded_layers(model: PreTrainedModel, patterns: list[str]) -> set[str]:
    """Return the modules whose names match a pattern, and the layers with weights in them.

    Raises:
        RunError: a pattern matches none.
    """
    names = [name for name, _ in model.named_modules() if name]
    found = {pattern: fnmatch.filter(names, pattern) for pattern in patterns}
    if nothing := next((pattern for pattern in patterns if not found[pattern]), None):
        raise RunError(f"'exclude' pattern '{nothing}' matches no layer; layers are named like '{names[-1]}'")
    matches = {name for names in found.values() for name in names}
    weighty = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    return matches | {name for name in weighty if name.startswith(tuple(f"{match}." for match in matches))}


def _asked(config: PruneSection) -> dict[str, Any]:
    """Return what every row tells: the criterion, and what it was to spend."""
    if config.granularity == "n:m":
        return {"importance": config.importance, "budget": {"pattern": config.pattern}}
    target = {"target": {config.target.metric: config.target.value}} if config.target else {}
    if config.granularity == "block":
        return {"importance": "output error", "budget": target}
    shares = {"sensitivity": config.sensitivity} if config.sensitivity else {"scope": config.scope}
    per = {"per": config.budget} if config.counts_cost else {}
    return {"importance": config.importance, "budget": shares | per | target}


def _outcome(row: dict[str, Any], metric: Metric) -> str:
    verdict = "kept" if row["kept"] else "too far, rolled back"
    outcome = row.get("diverged") or f"validation {metric.words} {row[f'validation_{metric.name}']:.4f}"
    time = f"time {-row['latency']:+.1%}, " if "latency" in row else ""
    return (
        f"sparsity {row['sparsity']:.1%}, parameters -{row['parameters']:.1%}, MACs -{row['macs']:.1%}, {time}"
        f"{outcome}: {verdict}"
    )
