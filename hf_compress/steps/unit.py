"""A step as a unit: done once, whatever interrupts the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_compress.checkpoint import load_like, save
from hf_compress.embeddings import load_projector, save_projector
from hf_compress.files import read_json, write_json
from hf_compress.hub.load import LoadedModel
from hf_compress.steps.base import Context, Step
from hf_compress.units import Units

MODEL, DETAILS = "model", "step.json"


def apply_once(
    step: Step, name: str, student: LoadedModel, context: Context, units: Units
) -> tuple[LoadedModel, dict[str, Any], Path]:
    """Apply a step to the student, unless that is done.

    Args:
        name: of the unit.
        context: gets back what the step left in it for later steps: the projector, and what must stay zero.

    Returns:
        The student as the step left it, the details for the report, and the folder of the model.
    """

    def work(new: Path, in_progress: Path) -> None:
        own = replace(context, work_folder=in_progress, resumable=True)
        result = step.apply(student.model, own)
        save(result.model.eval(), new / MODEL, student.processor)
        if own.projector is not None:
            save_projector(own.projector, new / MODEL)
        write_json(new / DETAILS, {"details": result.details, "sparse_parameters": sorted(own.sparse_parameters)})

    folder = units.once(name, work, step.alone)
    found = read_json(folder / DETAILS)
    context.sparse_parameters = set(found["sparse_parameters"])
    context.projector = load_projector(folder / MODEL)
    model = load_like(student.model, folder / MODEL)
    return replace(student, model=model, projector=context.projector), found["details"], folder / MODEL
