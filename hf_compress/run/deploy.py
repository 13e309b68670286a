"""Deployment: a model's files for other runtimes, checked against it on real images, and measured there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hf_compress.data import ImageData
from hf_compress.data.images import batches, example_input, fitting_batch, spread
from hf_compress.device.script import script_name
from hf_compress.device.timing import Others
from hf_compress.ground.environment import environment
from hf_compress.ground.files import read_json, write_json, write_text
from hf_compress.ground.looking import twin
from hf_compress.ground.processor import device_name
from hf_compress.ground.progress import track
from hf_compress.ground.tensors import use_channels_last
from hf_compress.ground.units import Units
from hf_compress.measure.agreement import agreements
from hf_compress.measure.intervals import differences
from hf_compress.measure.latency import cpu_threads, repeated, second_batch, time_in_turns
from hf_compress.models.exporting import DeployedModel, exportable
from hf_compress.models.load import LoadedModel
from hf_compress.run.recipe import Recipe
from hf_compress.run.scripts import unscripted, write_script
from hf_compress.run.stages import Stages
from hf_compress.runtimes import Exportable, Runtime, runtime
from hf_compress.runtimes.int8.fallback import divergence
from hf_compress.sections.deploy import DeploySection
from hf_compress.sections.measure import MeasureSection
from hf_compress.tasks.declared import task_of_model

FOLDER, RESULT = "deploy", "deployed.json"
CHECK_IMAGES, CHECK_BATCH = 512, 32
TOLERANCE = 0.01


@dataclass(frozen=True, eq=False)
class Target:
    """One file to write; `place` is its path in the folder of the model."""

    section: DeploySection
    runtime: Runtime
    place: Path

    @classmethod
    def of(cls, section: DeploySection, folder: str = FOLDER) -> Target:
        """Raise UsageError where the runtime is not installed."""
        chosen = runtime(section.to)
        return cls(section, chosen, Path(folder, f"model{'.int8' * section.int8}{chosen.suffix}"))

    @property
    def places(self) -> list[Path]:
        """All that is written: the export, the script beside it, and the JSON file."""
        script = self.place.with_name(script_name(self.section.to, self.section.int8))
        return [*self.runtime.files(self.place), script, _beside(self.place)]


@dataclass(frozen=True)
class Written:
    """What came of files that were to be written.

    Attributes:
        rows: of the report, one a file, without its quality: see `docs/report.md`.
        problems: a sentence for each that is not there.
        not_run: a sentence for each that is there, but that no machine here runs.
    """

    rows: list[dict[str, Any]]
    problems: list[str]
    not_run: list[str]


def write_files(
    loaded: LoadedModel, data: ImageData, targets: Sequence[Target], folder: Path, measure: MeasureSection
) -> Written:
    """Write a model for runtimes, check each file against PyTorch on test images, and time all in turn with PyTorch.

    Args:
        data: training images set the ranges of int8; at most 512 test images, spread evenly, are checked.
        folder: where the files go.
        measure: batch sizes, passes and threads of the latency.

    A file that does not say the same is removed. In int8 it may differ, as its row says, as long as it is finite.
    """
    problems: list[str] = []
    not_run = _write_unrun(loaded, [target for target in targets if target.runtime.only_on], folder, problems)
    targets = [target for target in targets if not target.runtime.only_on]
    with cpu_threads(measure.threads):
        files = written(loaded, data, targets, folder, problems)
        eager = twin(loaded.model)
        use_channels_last(eager)
        found = agreements(eager, list(files.values()), _test_images(data, loaded))
        rows: dict[Target, dict[str, Any]] = {}
        for target, agreement in zip(files, found, strict=True):
            if agreement.within(float("inf") if target.section.int8 else TOLERANCE):
                rows[target] = _row(target, loaded, folder) | files[target].told | agreement.row
            else:
                problems.append(f"the {target.section.stage} export does not say the same as PyTorch: {agreement}")
        _time(eager, [(row, files[target]) for target, row in rows.items()], example_input(loaded.processor), measure)
    for place in {place for target in targets if target not in rows for place in target.places}:
        (folder / place).unlink(missing_ok=True)
    return Written(list(rows.values()), problems, not_run)


def open_file(row: dict[str, Any], folder: Path, loaded: LoadedModel) -> LoadedModel:
    """Return the file of a row as a model that is called like `loaded`, from which it was written."""
    model = _opened(runtime(row["runtime"]), folder / row["file"], list(row["max_difference"]), loaded)
    return replace(loaded, model=model)


def describe_files(rows: list[dict[str, Any]], folder: Path, loaded: LoadedModel) -> None:
    """Write beside each export a script that uses it, and a JSON file: see `docs/on-device.md`."""
    task = _task_tag(loaded)
    obstacle = unscripted(loaded, task) if rows else None
    for row in rows:
        described = _description(loaded, row["max_difference"])
        write_script(row, folder, task, obstacle)
        found = environment()
        with suppress(PackageNotFoundError):  # a module may come from a package of another name
            found[row["runtime"]] = version(runtime(row["runtime"]).package.partition(".")[0])
        _describe(folder, row, described, found)


def deploy(
    recipe: Recipe, student: LoadedModel, data: ImageData, stages: Stages, units: Units, log: Callable[[str], None]
) -> tuple[dict[str, Any], Path]:
    """Carry out a recipe's section `deploy`.

    What a runtime cannot take is said, and does not end the run: a finished training is not lost for that.

    Returns:
        `deployed`, `not_deployed` and `not_run` of the report, and the folder that holds the files.
    """

    def work(new: Path, _: Path) -> None:
        measure = recipe.measure.model_copy(update={"batch_size": stages.second_batch})
        made = write_files(student, data, [Target.of(each) for each in recipe.deploy], new, measure)
        found = {"deployed": made.rows, "not_deployed": made.problems, "not_run": made.not_run}
        write_json(new / RESULT, found)

    folder = units.once(FOLDER, work, alone=True)
    result = read_json(folder / RESULT)
    for sentence in result["not_deployed"]:
        log(f"not deployed: {sentence}")
    for sentence in result["not_run"]:
        log(sentence)
    first, *_, last = stages.rows
    compared = {row["stage"]: stages.by_image[row["stage"]] for row in (last, first)}
    for row in result["deployed"]:
        file = open_file(row, folder, student)
        measured = units.value(f"measure {row['stage']}", partial(stages.quality, file))
        row["quality"] = measured["quality"]
        if found := differences(measured.get("by_image", {}), compared):
            row["differences"] = found
    return result, folder


def written(
    loaded: LoadedModel, data: ImageData, targets: Sequence[Target], folder: Path, problems: list[str]
) -> dict[Target, DeployedModel]:
    """Write a model for all runtimes that take it, and open the files; what cannot be written is a problem more."""
    model, files = exportable(loaded.model, example_input(loaded.processor)), {}
    metadata = {key: json.dumps(value) for key, value in _description(loaded, model.outputs).items()}
    for target in track(targets, "Exporting"):
        file, section = _place(target, folder), target.section
        shown = batches(spread(data.train, section.images if section.int8 else 0), loaded.processor, 1)
        try:
            calibration = [batch["pixel_values"] for batch in shown]
            told = target.runtime.write(replace(model, metadata=metadata, calibration=calibration), file)
            opened = _opened(target.runtime, file, model.outputs, loaded)
            opened(model.image)
            opened.told = told or {}
            if calibration and "int8_error" not in opened.told:
                opened.told["int8_error"] = _int8_error(model, opened, calibration)
            files[target] = opened
        except Exception as error:  # exporters raise whatever their compilers raise
            problems.append(_refusal(target, error))
    return files


def _int8_error(model: Exportable, file: DeployedModel, images: Sequence[torch.Tensor]) -> float:
    return divergence(model.outputs, model.call, lambda: file.call, [image.numpy() for image in images])()


def _write_unrun(loaded: LoadedModel, targets: Sequence[Target], folder: Path, problems: list[str]) -> list[str]:
    """Write a model for runtimes that run on other machines alone; return a sentence a file, which says that."""
    said = []
    for target in targets:
        model = exportable(loaded.model, example_input(loaded.processor))
        described = _description(loaded, model.outputs)
        metadata = {key: json.dumps(value) for key, value in described.items()}
        try:
            told = target.runtime.write(replace(model, metadata=metadata), _place(target, folder)) or {}
        except Exception as error:  # as above
            problems.append(_refusal(target, error))
            continue
        row = _row(target, loaded, folder) | told
        _describe(folder, row, described, environment())
        said.append(
            f"{row['file']} ({target.section.stage}, {row['cost']['bytes'] / 1e6:.2f} MB) runs on "
            f"{target.runtime.only_on} only and was not run here; looked into, {told['structure']}"
        )
    return said


def _place(target: Target, folder: Path) -> Path:
    file = folder / target.place
    file.parent.mkdir(parents=True, exist_ok=True)
    return file


def _refusal(target: Target, error: Exception) -> str:
    cause: BaseException = error
    while cause.__cause__ is not None:  # exporters wrap what stopped them in advice
        cause = cause.__cause__
    reason = str(cause).strip().splitlines() or [type(cause).__name__]
    return f"the model cannot be exported to {target.section.stage}: {reason[0]}"


def _describe(folder: Path, row: dict[str, Any], described: dict[str, Any], found: dict[str, Any]) -> None:
    whole = described | {"export": row, "environment": found}
    write_text(_beside(folder / row["file"]), json.dumps(whole, indent=2, allow_nan=False) + "\n")


def _task_tag(loaded: LoadedModel) -> str | None:
    """Return the Hub's name of what a model is for, if it has one."""
    task = task_of_model(loaded.model)
    return task.pipeline_tag if task else None


def _description(loaded: LoadedModel, outputs: Iterable[str]) -> dict[str, Any]:
    """Return what a program needs beside the weights."""
    labels = loaded.label_names if "logits" in outputs else []
    return {
        "task": _task_tag(loaded),
        "labels": labels,
        "preprocessing": json.loads(loaded.processor.to_json_string()),
    }


def _test_images(data: ImageData, loaded: LoadedModel) -> Iterator[torch.Tensor]:
    shown = batches(spread(data.test, CHECK_IMAGES), loaded.processor, fitting_batch(loaded.processor, CHECK_BATCH))
    return (batch["pixel_values"] for batch in track(shown, "Checking"))


def _opened(chosen: Runtime, file: Path, outputs: list[str], loaded: LoadedModel) -> DeployedModel:
    return DeployedModel(chosen.load(file, torch.get_num_threads()), outputs, loaded.model, chosen.batches)


def _row(target: Target, loaded: LoadedModel, folder: Path) -> dict[str, Any]:
    return {
        "stage": target.section.stage,
        "model": loaded.name,
        "runtime": target.section.to,
        "precision": "int8" if target.section.int8 else "float32",
        "file": target.place.as_posix(),
        "cost": {"bytes": sum((folder / place).stat().st_size for place in target.runtime.files(target.place))},
        "threads": torch.get_num_threads(),
        "processor": device_name(),
    }


def _time(eager, files: list[tuple[dict[str, Any], DeployedModel]], image, measure: MeasureSection) -> None:
    """Add the latencies to the rows: of each file, and PyTorch's in turn with it; by batch size where one is taken."""
    machine = Others()
    for size in sorted({1, second_batch(measure, [image])}):
        taking = [(row, file) for row, file in files if file.batches or size == 1]
        if not taking:
            continue
        batch = repeated(image, size)
        calls = [
            partial(eager, pixel_values=batch),
            *(partial(file.call, batch.contiguous().numpy()) for _, file in taking),
        ]
        own, *theirs = time_in_turns(calls, measure.repeats, f"deployed, batch {size}", against="PyTorch")
        for (row, _), took in zip(taking, theirs, strict=True):
            row.setdefault("latency", {})[f"batch_{size}"] = took
            row.setdefault("eager_latency", {})[f"batch_{size}"] = own
    for row, _ in files:
        row["other_cores"] = round(machine.cores, 2)


def _beside(file: Path) -> Path:
    return file.with_name(file.name + ".json")
