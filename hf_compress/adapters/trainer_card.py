"""What a `CompressionTrainer` knows of its training, as a report from which the card of a run can be written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, Trainer
from transformers.modelcard import extract_hyperparameters_from_trainer
from transformers.trainer_utils import has_length

from hf_compress.checkpoint import loads_with
from hf_compress.checkpoint.labels import labels_of
from hf_compress.data.images import example_input
from hf_compress.ground.environment import environment
from hf_compress.ground.files import read_json
from hf_compress.measure.cost import count_macs, count_nonzero, count_parameters
from hf_compress.models.origin import Origin, origin

SPEED = {"runtime", "samples_per_second", "steps_per_second", "model_preparation_time"}
EVALUATED = "eval_"


def training_report(
    trainer: Trainer, teacher: PreTrainedModel | None, steps: dict[str, Any], nonzero_before: int, data: str | None
) -> dict[str, Any]:
    """Return a report with the facts of a training that a Trainer knows; those of the data set it does not.

    Args:
        teacher: what the model learnt from.
        steps: of a recipe, by name, with their options.
        nonzero_before: parameters of the model that were not zero before the training.
        data: name of the data set.
    """
    model, history = trainer.accelerator.unwrap_model(trainer.model), trainer.state.log_history
    evaluations = [_metrics(entry) for entry in history]
    saved = Path(trainer.args.output_dir) / "config.json"
    quality = next((found for found in reversed(evaluations) if found), {})
    cost = _cost(model, trainer.processing_class)
    first = {"stage": "student", "model": _name(model), "cost": cost | {"nonzero_parameters": nonzero_before}}
    if teacher is not None:
        first = {"stage": "teacher", "model": _name(teacher), "cost": _cost(teacher, None)}
    last = {
        "stage": f"1 {', '.join(steps) or 'train'}",
        "model": _name(model),
        "quality": quality,
        "cost": cost,
        "details": {"epochs": [{}] * round(trainer.state.epoch or 0)},
    }
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "task": trainer.task.name,
        "rows": [first | {"quality": {}}, last],
        "remarks": list(_remarks(trainer, quality)),
        "teacher": None if teacher is None else _origin(teacher),
        "student": _origin(model),
        "data": {
            "path": data or "those of the training script",
            "revision": None,
            "splits": {
                "train": _split(trainer.train_dataset, "train_dataset of the Trainer"),
                "test": _split(trainer.eval_dataset, "eval_dataset of the Trainer"),
            },
        },
        "labels": labels_of(model) if trainer.task.classes else [],
        "loads_with": loads_with(read_json(saved) if saved.is_file() else model.config.to_dict()),
        "environment": environment(),
        "training": {**steps, "arguments": extract_hyperparameters_from_trainer(trainer)},
        "evaluations": [
            {"epoch": entry["epoch"], **found} for entry, found in zip(history, evaluations, strict=True) if found
        ],
    }


def _metrics(entry: dict[str, Any]) -> dict[str, float]:
    """Return what a line of the Trainer's log says of an evaluation, the loss last."""
    named = {key.removeprefix(EVALUATED): value for key, value in entry.items() if key.startswith(EVALUATED)}
    found = {
        key: value
        for key, value in named.items()
        if key not in SPEED and isinstance(value, int | float) and math.isfinite(value)
    }
    return dict(sorted(found.items(), key=lambda item: item[0] == "loss"))


def _cost(model: PreTrainedModel, processor: Any) -> dict[str, int]:
    """Return what can be known without an image, and with a processor, which makes one, the MACs."""
    counted = {"parameters": count_parameters(model), "nonzero_parameters": count_nonzero(model)}
    if processor is None:
        return counted
    return counted | {"macs": count_macs(model, example_input(processor).to(model.device))}


def _name(model: PreTrainedModel) -> str:
    return model.config.name_or_path or model.config.model_type


def _origin(model: PreTrainedModel) -> Origin:
    name = model.config.name_or_path
    return origin(_name(model), getattr(model.config, "_commit_hash", None), pretrained=bool(name))


def _split(images: Any, name: str) -> dict[str, Any]:
    count = len(images) if images is not None and not isinstance(images, dict) and has_length(images) else 0
    unknown = {"corrupt_images_skipped": None, "unlabelled_images": None, "images_by_class": {}}
    return {"images": count, "from": name, **unknown}


def _remarks(trainer: Trainer, quality: dict[str, float]) -> Iterator[str]:
    if not quality:
        yield "the model was not evaluated"
    elif trainer.args.load_best_model_at_end:
        yield "the best checkpoint was chosen by the images that the figures are of, which flatters them"
    if trainer.processing_class is None:
        yield "no image processor lies beside the model: the Trainer takes it as 'processing_class'"
