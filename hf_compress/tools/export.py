"""The export of a saved model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_compress.data import ImageData
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.files import user_path
from hf_compress.ground.manifest import adding, claim
from hf_compress.models.load import LoadedModel
from hf_compress.report.card import CARD, write_card
from hf_compress.report.run import REPORT, read_report, write_report
from hf_compress.run.deploy import FOLDER, Target, Written, describe_files, open_file, write_files
from hf_compress.sections.base import validate
from hf_compress.sections.deploy import DeploySection
from hf_compress.sections.measure import MeasureSection
from hf_compress.tasks import Task
from hf_compress.tools.evaluation import load_with_data, saved_task
from hf_compress.tools.own_data import data_section
from hf_compress.training.predicting import predictor

logger = logging.getLogger(__name__)

MEASURE = MeasureSection(batch_size=1, repeats=50)


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
    A run folder's `report.json` gets the result in its list `deployed`, as from a recipe's section `deploy`; latency
    is taken with the recipe's batch size, passes and threads, and the card is written again.

    Args:
        folder: run folder, folder in Hub form, or Hub id.
        to: names of runtimes: `onnx`, `openvino`, `executorch`, `litert`, `ncnn`, `coreml`, `pt2`.
        int8: write an int8 version, too, quantised with at most 128 training images.
        data: the images; None takes those of a run folder's recipe.
        output: where to write; None writes into `deploy` in `folder`.
        trust_remote_code: run Python code of the repository.

    Returns:
        One row a file that was run, as in the report (`docs/report.md`); `quality`, by the metrics of the model's
        task, is of the test images, and empty where these have other labels than the model.

    Raises:
        UsageError: an unknown runtime, one that is not installed or has no int8, or nowhere to write to; or files of
            these names are there that this package did not write, or that were changed since.
        RunError: a model that the runtime cannot take, or whose export does not say the same.
    """
    sections = [
        validate(DeploySection, {"to": name, "int8": precision})
        for name in ([to] if isinstance(to, str) else to)
        for precision in (False, True)[: 1 + int8]
    ]
    targets = [Target.of(section, "" if output else FOLDER) for section in sections]
    destination = user_path(output or folder)
    if output is None and not destination.is_dir():
        raise UsageError(f"'{folder}' is not a folder to write into: pass --output")
    report = [REPORT] if (destination / REPORT).is_file() else []
    claim(destination, [*(place.as_posix() for target in targets for place in target.places), *report])
    task = saved_task(str(folder))
    loaded, images = load_with_data(task, str(folder), data, trust_remote_code)
    quality = _measure(task, loaded, images)
    if report and not data_section(str(folder), data)[2]:
        quality = lambda file: {}  # noqa: E731  (the report tells of the images that the run did not learn from)
        logger.warning("the quality of the files is not measured: %s are not the images of the run's report", data)
    with adding(destination) as new:
        measure = _measure_section(destination) if report else MEASURE
        made = write_files(loaded, images, targets, new, measure)
        rows = made.rows
        if made.problems:
            raise RunError(f"{made.problems[0]}; nothing was kept")
        for row in rows:
            row["quality"] = quality(open_file(row, new, loaded))
        describe_files(rows, new, loaded)
        if report:
            _add_to_report(destination, new, made)
    for sentence in made.not_run:
        logger.warning(sentence)
    if report and (destination / CARD).is_file():
        try:
            write_card(destination)
        except UsageError as error:  # the owner of a card that was edited goes on with it
            logger.warning("the card does not show the new files: %s", error)
    return rows


def _measure_section(folder: Path) -> MeasureSection:
    """Return how a run measured."""
    said = read_report(folder / REPORT)["measure"]
    return validate(MeasureSection, {key: said[key] for key in MeasureSection.model_fields if key in said})


def _measure(task: Task, loaded: LoadedModel, images: ImageData) -> Callable[[LoadedModel], dict[str, float]]:
    """Return what gives the quality of a file of a model on the test images: none where they have other labels."""
    try:
        images = task.require_labels(loaded, images)
    except RunError:
        return lambda file: {}
    examine = task.examiner(images, "test", None, predictor(task, images.workers))
    return lambda file: examine(file)["quality"]


def _add_to_report(folder: Path, new: Path, made: Written) -> None:
    """Put what was written into a run folder's report; a file that is exported again replaces what it says of it."""
    report = read_report(folder / REPORT)
    files = {row["file"] for row in made.rows}
    report["deployed"] = [row for row in report.get("deployed", []) if row["file"] not in files] + made.rows
    again = {sentence.split()[0] for sentence in made.not_run}
    report["not_run"] = [said for said in report.get("not_run", []) if said.split()[0] not in again] + made.not_run
    write_report(new / REPORT, report)
