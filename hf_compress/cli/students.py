"""`hf-compress students`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from hf_compress.cli.options import Json, TrustRemoteCode, assignments, examples
from hf_compress.cli.output import show, show_json
from hf_compress.ground.errors import UsageError
from hf_compress.ground.files import missing_folder, split_revision
from hf_compress.sections.base import validate
from hf_compress.sections.models import BudgetSection

if TYPE_CHECKING:
    from hf_compress.models.load import LoadedModel
    from hf_compress.run.selection.candidates import Candidate

TEN_CLASSES = [str(label) for label in range(10)]
SKIPPED = "without latency: not measured, since another cost, or a narrower one, is too high already"


@examples(
    "hf-compress students",
    "hf-compress students --budget latency_ms=5 --teacher microsoft/resnet-50",
    "hf-compress students --budget parameters=1e6 --budget macs=50e6 --image-size 96",
)
def students(
    budget: Annotated[
        list[str] | None,
        typer.Option(help="KEY=VALUE with the key parameters, macs, bytes or latency_ms; repeatable."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(help="Compare with this Hub id (ID@REVISION), timm/..., or folder.")
    ] = None,
    image_size: Annotated[int | None, typer.Option(min=8, help="Input in pixels; the teacher's, or 224.")] = None,
    trust_remote_code: TrustRemoteCode = False,
    json_: Json = False,
) -> None:
    """List the architectures that can be built by name; with --budget, which of them are within it in which width.

    Nothing is trained; latency is measured on this device. Classes are the teacher's, or ten.
    """
    if not budget:
        if teacher is not None or image_size is not None:
            raise UsageError("--teacher and --image-size need a budget: for example --budget latency_ms=5")
        registered = _registered()
        if json_:
            show_json(registered)
        else:
            show(_sizes(registered), _checkpoints(registered))
        return
    bounds = validate(BudgetSection, assignments(budget, "--budget"), "budget").limits
    if teacher is not None and missing_folder(teacher):
        raise UsageError(f"there is no model folder '{teacher}'")
    from hf_compress.measure.cost import count_parameters
    from hf_compress.run.selection.candidates import Blueprint
    from hf_compress.run.selection.fitting import Timer, budget_in_words, fit_to_budget, nothing_fits
    from hf_compress.run.selection.select import pixels

    loaded = _teacher(teacher, trust_remote_code) if teacher else None
    labels = loaded.label_names if loaded else TEN_CLASSES
    blueprint = Blueprint(labels, pixels(image_size, loaded))
    candidates = blueprint.candidates()
    fitting = fit_to_budget(candidates, bounds, Timer(blueprint))
    if json_:
        show_json([candidate.row() for candidate in candidates])
    else:
        show(_table(candidates, loaded and count_parameters(loaded.model)))
    if not fitting:
        raise nothing_fits(candidates, bounds)
    if not json_:
        within = f"{len(fitting)} of {len(candidates)} are within {budget_in_words(bounds)}"
        show(f"{within}, at {blueprint.image_size} pixels and {len(labels)} classes")


def _registered() -> list[dict[str, Any]]:
    """Return every architecture with its parameters by width, and the checkpoints that `pretrained: auto` knows."""
    from hf_compress.measure.cost import count_parameters
    from hf_compress.models.students import STUDENTS, build_registered

    return [
        {
            "name": name,
            "description": STUDENTS.get(name).description,
            "parameters": {
                f"{width:g}": count_parameters(build_registered(name, TEN_CLASSES, width=width).model)
                for width in (1.0, 0.5)
            },
            "checkpoints": [asdict(known) for known in STUDENTS.get(name).checkpoints],
        }
        for name in STUDENTS
    ]


def _sizes(registered: list[dict[str, Any]]) -> Table:
    table = Table(Column("name", no_wrap=True), "architecture", "parameters, width 1", "width 0.5")
    for row in registered:
        sizes = [f"{size / 1e6:.2f} M" for size in row["parameters"].values()]
        table.add_row(row["name"], row["description"], *sizes)
    return table


def _checkpoints(registered: list[dict[str, Any]]) -> Table:
    table = Table(Column("name", no_wrap=True), "width", Column("pretrained: auto", overflow="fold"))
    for heading in ("parameters", "licence"):
        table.add_column(heading)
    for row in registered:
        for known in row["checkpoints"]:
            sizes = f"{known['width']:g}", known["id"], f"{known['parameters']} M"
            table.add_row(row["name"], *sizes, known["license"])
    return table


def _teacher(name: str, trust_remote_code: bool) -> LoadedModel:
    from hf_compress.models.students import STUDENTS, build_model
    from hf_compress.sections.models import TeacherSection
    from hf_compress.tasks.classification import CLASSIFICATION

    model, revision = split_revision(name)
    section = TeacherSection(model=model, revision=revision or None, trust_remote_code=trust_remote_code)
    return build_model(section, TEN_CLASSES if model in STUDENTS else None, CLASSIFICATION)


def _table(candidates: list[Candidate], teacher_parameters: int | None) -> Table:
    from hf_compress.report.measures import in_thousands, milliseconds, size
    from hf_compress.run.selection.candidates import hint

    table = Table(Column("student", no_wrap=True), box=SIMPLE_HEAD, padding=0, caption_justify="left", caption=SKIPPED)
    for heading in ("parameters", "MACs", "size", "latency"):
        table.add_column(heading, justify="right")
    if teacher_parameters is not None:
        table.add_column("of teacher", justify="right")
        table.caption += "\n* less than half of the teacher's parameters: risky, by a rule of thumb"
    table.add_column("fits")
    for candidate in candidates:
        costs = candidate.costs
        cells = [str(candidate), in_thousands(costs["parameters"]), in_thousands(costs["macs"]), size(costs["bytes"])]
        cells.append(milliseconds(costs["latency_ms"]) if "latency_ms" in costs else "")
        if teacher_parameters is not None:
            mark = "*" if hint(candidate, teacher_parameters) else " "
            cells.append(f"{costs['parameters'] / teacher_parameters:.1%}{mark}")
        table.add_row(*cells, "no" if candidate.misses else "yes", style="dim" if candidate.misses else None)
    return table
