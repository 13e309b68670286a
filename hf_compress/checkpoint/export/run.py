"""The export of a saved model: write, check against PyTorch on real images, time, and record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

from hf_compress.checkpoint.export.base import Exportable, Logits, Runtime, runtime
from hf_compress.checkpoint.export.check import compare, logits
from hf_compress.checkpoint.export.folding import fold_batch_norms
from hf_compress.data import ImageData
from hf_compress.data.images import batches, input_size, spread
from hf_compress.environment import environment
from hf_compress.errors import RunError, UsageError
from hf_compress.evaluation import load_with_data
from hf_compress.files import user_path, write_text
from hf_compress.hub.load import LoadedModel
from hf_compress.layout import use_channels_last
from hf_compress.manifest import adding, claim
from hf_compress.measure.latency import time_in_turns
from hf_compress.report import read_report
from hf_compress.run import REPORT, write_report

CHECK_IMAGES, CALIBRATION_IMAGES = 2000, 128
BATCH, REPEATS = 32, 50
PRECISIONS = (("float32", ""), ("int8", ".int8"))
TOLERANCE = 0.01


@dataclass
class Target:
    """One file to write."""

    name: str
    runtime: Runtime
    precision: str
    file: Path


def export(
    folder: str | Path,
    to: str | Sequence[str],
    *,
    int8: bool = False,
    data: str | None = None,
    output: str | Path | None = None,
    trust_remote_code: bool = False,
) -> list[dict[str, Any]]:
    """Export a saved model, check every export against PyTorch on test images, and time it in turn with PyTorch.

    Labels and preprocessing travel with each file: inside it where its format allows, and in a JSON file beside it.
    A run folder's `report.json` gets the result in its list `exports`.

    Args:
        folder: run folder, folder in Hub form, or Hub id.
        to: names of runtimes: `onnx`, `openvino`, `executorch`, `litert`, `pt2`.
        int8: write an int8 version, too, quantised with at most 128 training images.
        data: the images; None takes those of a run folder's recipe.
        output: where to write; None writes into `folder`.
        trust_remote_code: run Python code of the repository.

    Returns:
        One row a file: `runtime`, `file`, `bytes`, `precision`, `max_difference` and `top1_agreement` (see
        `check.compare`), `accuracy` and `roc_auc` where the images have the model's labels, `latency`
        (`{"batch_1": {"p50_ms": ..., "p95_ms": ...}}`), and PyTorch's own, taken in turn with it, as `eager_latency`.

    Raises:
        UsageError: an unknown runtime, one that is not installed or has no int8, or nowhere to write to; or files of
            these names are there that this package did not write, or that were changed since.
        RunError: a model that the runtime cannot take, or whose export does not say the same.
    """
    runtimes = {name: runtime(name) for name in ([to] if isinstance(to, str) else to)}
    for name, chosen in runtimes.items():
        if int8 and not chosen.int8:
            raise UsageError(f"{name} has no int8 here: choose onnx or executorch, or leave out --int8")
    destination = _destination(str(folder), output)
    places = [
        Target(name, chosen, precision, destination / f"model{infix}{chosen.suffix}")
        for name, chosen in runtimes.items()
        for precision, infix in (PRECISIONS if int8 else PRECISIONS[:1])
    ]
    _claim(destination, places)
    loaded, images, same_labels = load_with_data(str(folder), data, trust_remote_code)
    model = _exportable(loaded)
    calibration = _calibration(images, loaded.processor) if int8 else []
    with adding(destination) as new:
        targets = [replace(place, file=new / place.file.name) for place in places]
        for target in track(targets, "Exporting", transient=True):
            model.calibration = calibration if target.precision == "int8" else []
            _write(target, model)
        rows = _checked(targets, loaded, images, same_labels)
        for target, row in zip(targets, rows, strict=True):
            _describe(target, model, row)
        _add_to_report(destination, new, rows)
    return rows


def _destination(folder: str, output: str | Path | None) -> Path:
    destination = user_path(output or folder)
    if output is None and not destination.is_dir():
        raise UsageError(f"'{folder}' is not a folder to write into: pass --output")
    return destination


def _claim(destination: Path, places: list[Target]) -> None:
    """See before the work that all files may be written; a report gets new rows."""
    files = [part for place in places for part in (*place.runtime.files(place.file), _beside(place.file))]
    report = [destination / REPORT] if (destination / REPORT).exists() else []
    claim(destination, [file.name for file in (*files, *report)])


def _exportable(loaded: LoadedModel) -> Exportable:
    image = torch.zeros(1, 3, *input_size(loaded.processor))
    module = Logits(fold_batch_norms(loaded.model, image)).eval()
    return Exportable(module, image, loaded.label_names, json.loads(loaded.processor.to_json_string()), [])


def _calibration(images: ImageData, processor) -> list[torch.Tensor]:
    return [batch["pixel_values"] for batch in batches(spread(images.train, CALIBRATION_IMAGES), processor, 1)]


def _write(target: Target, model: Exportable) -> None:
    try:
        target.runtime.write(model, target.file)
    except Exception as error:  # exporters raise whatever their compilers raise
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise RunError(f"the model cannot be exported to {target.name}: {reason[0]}") from error


def _checked(targets: list[Target], loaded: LoadedModel, images: ImageData, same_labels: bool) -> list[dict[str, Any]]:
    """Return the rows of the report: what the files say on test images, and how fast."""
    use_channels_last(loaded.model)
    eager = Logits(loaded.model).eval()
    calls = [target.runtime.load(target.file, torch.get_num_threads()) for target in targets]
    found: list[list[torch.Tensor]] = [[] for _ in calls]
    expected, labels = [], []
    for batch in track(
        batches(spread(images.test, CHECK_IMAGES), loaded.processor, BATCH), "Checking", transient=True
    ):
        expected.append(logits(eager, batch["pixel_values"], in_batches=True))
        labels.append(batch["labels"])
        for target, call, parts in zip(targets, calls, found, strict=True):
            parts.append(logits(call, batch["pixel_values"], target.runtime.batches))
    image = batch["pixel_values"][:1].contiguous(memory_format=torch.channels_last)
    plain = image.contiguous()
    timed = [partial(eager, image), *(partial(call, plain) for call in calls)]
    eager_latency, *latencies = time_in_turns(timed, REPEATS, "one image")
    rows = []
    for target, parts, latency in zip(targets, found, latencies, strict=True):
        row = {
            "runtime": target.name,
            "file": target.file.name,
            "bytes": sum(part.stat().st_size for part in target.runtime.files(target.file)),
            "precision": target.precision,
            **compare(torch.cat(expected), torch.cat(parts), torch.cat(labels) if same_labels else None),
            "latency": {"batch_1": latency},
            "eager_latency": {"batch_1": eager_latency},
        }
        _refuse_other_answers(target, row, torch.cat(expected))
        rows.append(row)
    return rows


def _refuse_other_answers(target: Target, row: dict[str, Any], expected: torch.Tensor) -> None:
    """An int8 file may differ, as its row says; one in float32 computes the same."""
    allowed = TOLERANCE * max(1.0, expected.abs().max().item())
    if target.precision == "float32" and not row["max_difference"] <= allowed:
        raise RunError(
            f"the {target.name} export does not say the same as PyTorch: logits differ by "
            f"{row['max_difference']:.3g}, the best class is the same for {row['top1_agreement']:.1%} of the images; "
            "it was not kept"
        )


def _describe(target: Target, model: Exportable, row: dict[str, Any]) -> None:
    """Write what belongs to a file into the JSON file beside it."""
    description = {
        "labels": model.labels,
        "preprocessing": model.preprocessing,
        "export": row,
        "environment": environment() | {target.name: version(target.runtime.package.partition(".")[0])},
    }
    write_text(_beside(target.file), json.dumps(description, indent=2, allow_nan=False) + "\n")


def _beside(file: Path) -> Path:
    return file.with_name(file.name + ".json")


def _add_to_report(folder: Path, new: Path, rows: list[dict[str, Any]]) -> None:
    """Put the rows into a run folder's report; a file that is exported again replaces its row."""
    if not (folder / REPORT).is_file():
        return
    report = read_report(folder / REPORT)
    files = {row["file"] for row in rows}
    report["exports"] = [row for row in report.get("exports", []) if row["file"] not in files] + rows
    write_report(new / REPORT, report)
