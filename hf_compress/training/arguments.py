"""From the section of a recipe to the Trainer's arguments."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import TrainingArguments

from hf_compress.data.images import fitting_batch
from hf_compress.sections.base import TrainingConfig
from hf_compress.training.context import Context

EVALUATION_BATCH = 128
UNTRACKED: Mapping[str, Any] = MappingProxyType({"report_to": "none"})


def training_arguments(
    config: TrainingConfig,
    context: Context,
    folder: Path,
    accumulation: int = 1,
    steps: int = -1,
    tracked: Mapping[str, Any] = UNTRACKED,
) -> TrainingArguments:
    """Return the Trainer's arguments for a section of the recipe.

    Args:
        folder: of the checkpoints.
        accumulation: a step learns from so many batches.
        steps: of the whole training; -1 makes `config.epochs`.
        tracked: the arguments that name a tracker: see `Tracking.arguments`.
    """
    return on_one_device(
        output_dir=str(folder),
        gradient_accumulation_steps=accumulation,
        num_train_epochs=config.epochs,
        max_steps=steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=fitting_batch(context.processor, EVALUATION_BATCH),
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type="constant_with_warmup"
        if config.scheduler == "constant" and config.warmup
        else config.scheduler,
        warmup_steps=config.warmup,
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        metric_for_best_model=context.task.deciding.name,
        greater_is_better=context.task.deciding.higher_is_better,
        logging_nan_inf_filter=False,  # `stop_unless_finite` has looked already
        seed=context.seed,
        **shared_arguments(context.data.workers) | tracked,
    )


def on_one_device(**options: Any) -> TrainingArguments:
    """Return the Trainer's arguments for a process that works on one device, however many there are."""
    arguments = TrainingArguments(**options)
    arguments._n_gpu = min(1, arguments.n_gpu)  # or batches grow with the devices, by torch's `DataParallel`
    return arguments


def shared_arguments(workers: int) -> dict[str, Any]:
    """Return the Trainer's arguments for where it works, how batches get there, and what it keeps to itself."""
    return {
        **transfer(),
        "dataloader_num_workers": workers,
        "label_names": ["labels"],
        "remove_unused_columns": False,
        "disable_tqdm": True,
        **UNTRACKED,
    }


def transfer() -> dict[str, Any]:
    """Return the Trainer's arguments for where it works, and how batches get there."""
    gpu = torch.cuda.is_available()
    return {"use_cpu": not gpu, "dataloader_pin_memory": gpu, "accelerator_config": {"non_blocking": gpu}}


def optimizer(config: TrainingConfig) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """Return the class and the options of the optimizer that a section of the recipe names."""
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    options: dict[str, Any] = {"lr": config.learning_rate}
    if config.optimizer == "sgd":
        options |= {"momentum": 0.9, "nesterov": True}
    return kinds[config.optimizer], options
