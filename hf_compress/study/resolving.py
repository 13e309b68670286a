"""What a study adds to the sections of its runs: models of other runs, image size, training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hf_compress.models.students import STUDENTS
from hf_compress.sections.base import TrainingConfig
from hf_compress.steps import STEPS


def run_folder(output: Path, name: str, seed: int) -> Path:
    """Return where a run of a study lies."""
    return output / f"{name}-seed-{seed}"


def references(node: Any) -> Iterator[str]:
    """Find the name in every `{run: name}`."""
    if isinstance(node, list):
        for item in node:
            yield from references(item)
    elif isinstance(node, dict):
        if "run" in node:
            yield str(node["run"])
        yield from references(list(node.values()))


def resolved_model(
    node: Any, training: dict[str, Any], image_size: int | None, folder_of: Callable[[str], Path]
) -> Any:
    """Complete a section that names a model, or a list of such.

    Args:
        node: plain values; what is no model is returned as it is, for the recipe to refuse.
        training: options that `finetune` gets where it lacks them.
        image_size: size that a registered architecture gets where it lacks one.
        folder_of: gives the folder of the run in `{run: name}`.
    """

    def complete(node: Any) -> Any:
        if isinstance(node, list):
            return list(map(complete, node))
        if not isinstance(node, dict):
            return complete({"model": node}) if isinstance(node, str) else node
        model = {
            key: [complete(item) if isinstance(item, dict) else item for item in value]
            if isinstance(value, list)
            else value
            for key, value in node.items()
        }
        if "run" in model:
            folder = folder_of(str(model.pop("run")))
            model["model"] = str(folder) if folder.is_absolute() else f"./{folder.as_posix()}"
        if image_size is not None and str(model.get("model")) in STUDENTS:
            model = {"image_size": image_size} | model
        if isinstance(model.get("finetune"), dict):
            model["finetune"] = training | model["finetune"]
        return model

    return complete(node)


def resolved_steps(steps: Any, training: dict[str, Any]) -> Any:
    """Give steps that train the options that they lack."""
    return [_resolved_step(step, training) for step in steps] if isinstance(steps, list) else steps


def _resolved_step(step: Any, training: dict[str, Any]) -> Any:
    named = {step: {}} if isinstance(step, str) else step
    if not isinstance(named, dict):
        return step
    return {
        name: training | (options or {})
        if isinstance(options or {}, dict) and name in STEPS and issubclass(STEPS.get(name).Config, TrainingConfig)
        else options
        for name, options in named.items()
    }
