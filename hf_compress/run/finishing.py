"""The end of a run: its models are measured on the test images, deployed, and written with the report."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hf_compress.checkpoint import loads_with, save
from hf_compress.ground.environment import environment
from hf_compress.ground.files import read_json, write_text
from hf_compress.hub.reload_check import check_reload, some_pictures
from hf_compress.measure.layers import layer_changes
from hf_compress.report.card import write_card
from hf_compress.report.examples import EXAMPLES, draw_examples
from hf_compress.report.run import Run, write_run
from hf_compress.run.deploy import FOLDER as DEPLOYED
from hf_compress.run.deploy import deploy, describe_files
from hf_compress.run.folder import RunFolder
from hf_compress.run.preparing import Prepared
from hf_compress.run.taking import Taken
from hf_compress.tasks import TASKS
from hf_compress.tasks.sheets import FINAL


def finish(
    prepared: Prepared,
    taken: Taken,
    folder: RunFolder,
    log,
    facts: dict[str, Any] | None = None,
    texts: dict[str, str] | None = None,
) -> Run:
    """Measure all models on the test images, deploy the last one, and put the run folder into its place.

    Args:
        facts: more for the report.
        texts: more files, by path.
    """
    recipe, student, stages, data = taken.recipe, taken.student, taken.stages, prepared.data
    task = TASKS.get(recipe.task)
    stages.measure_all()
    stages.add_latency()
    deployed, exports = deploy(recipe, student, data, stages, stages.units, log) if recipe.deploy else ({}, None)

    def write(files: Path) -> None:
        if taken.files is None:
            save(student.model.eval(), files, student.processor)
        else:
            shutil.copytree(taken.files, files, dirs_exist_ok=True)
        if exports is not None:
            shutil.copytree(exports / DEPLOYED, files / DEPLOYED)
            describe_files(deployed["deployed"], files, student)
        check_reload(files, student, some_pictures(data.test), task, data.label_names)
        report = {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "task": recipe.task,
            "seconds": round(folder.seconds, 1),
            "rows": stages.rows,
            **deployed,
            **({"control": stages.control} if stages.control else {}),
            "remarks": taken.remarks + stages.remarks,
            "layers": layer_changes(stages.models[-len(recipe.steps) - 1].model, student.model),
            **taken.origins,
            **taken.selection,
            **(facts or {}),
            "data": data.facts,
            "labels": data.label_names,
            "loads_with": loads_with(read_json(files / "config.json")),
            "seed": recipe.seed,
            "seeds": prepared.seeds.facts,
            "measure": {
                "split": "test",
                **recipe.measure.model_dump(),
                "batch_size": stages.second_batch,
                "other_cores": stages.other_cores,
            },
            "environment": environment(),
        }
        repeatable = recipe.model_copy(update={"publish": None, "track": None})  # whoever repeats it has other places
        write_run(files, repeatable.to_yaml(), report)
        for path, text in (texts or {}).items():
            (files / path).parent.mkdir(exist_ok=True)
            write_text(files / path, text)
        by_image = stages.by_image[stages.rows[-1]["stage"]].get(task.deciding.name, [])
        if sheet := task.examples({**stages.teacher, FINAL: student}, data.test, by_image, data.by_teacher):
            draw_examples(sheet, files / EXAMPLES)
        write_card(files)

    return folder.finish(write)
