"""A step as a unit: done once, whatever interrupts the run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_compress.checkpoint import load_like, save
from hf_compress.ground.files import read_json, write_json
from hf_compress.ground.units import Units
from hf_compress.models.embeddings import load_projector, save_projector
from hf_compress.models.load import LoadedModel
from hf_compress.steps.base import Step
from hf_compress.training.context import Context

MODEL, DETAILS = "model", "step.json"


@dataclass(frozen=True)
class Applied:
    """A step that is done.

    Attributes:
        student: as the step left it.
        context: for the next step.
        details: for the report.
        folder: of the student's files.
    """

    student: LoadedModel
    context: Context
    details: dict[str, Any]
    folder: Path


def apply_once(step: Step, name: str, student: LoadedModel, context: Context, units: Units) -> Applied:
    """Apply a step to the student, unless the unit `name` is done."""

    def work(new: Path, in_progress: Path) -> None:
        result = step.apply(student.model, replace(context, work_folder=in_progress, resumable=True))
        save(result.model.eval(), new / MODEL, student.processor)
        if (learnt := result.projector or context.projector) is not None:
            save_projector(learnt, new / MODEL)
        sparse = sorted(context.sparse_parameters | result.sparse_parameters)
        write_json(new / DETAILS, {"details": result.details, "sparse_parameters": sparse})

    folder = units.once(name, work, step.alone)
    found = read_json(folder / DETAILS)
    projector = load_projector(folder / MODEL)
    return Applied(
        replace(student, model=load_like(student.model, folder / MODEL), projector=projector),
        replace(context, sparse_parameters=frozenset(found["sparse_parameters"]), projector=projector),
        found["details"],
        folder / MODEL,
    )
