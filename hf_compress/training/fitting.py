"""A training from its first epoch, or its last checkpoint, to the weights of its best one."""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from hf_compress.data import Collator, ImageSplit
from hf_compress.data.streaming import ImageStream
from hf_compress.ground.errors import Diverged, RunError
from hf_compress.ground.memory import in_fitting_batches
from hf_compress.ground.tensors import use_channels_last
from hf_compress.models.load import LoadedModel
from hf_compress.sections.base import TrainingConfig
from hf_compress.sections.distillation import LOSSES
from hf_compress.tasks.base import Metric
from hf_compress.training.arguments import UNTRACKED, optimizer, training_arguments
from hf_compress.training.batch_norms import frozen_statistics, require_pairs
from hf_compress.training.budget import Ask, Budget, TimeTrial
from hf_compress.training.callbacks import BeginEvaluated, HoldMasks, ShowEpoch, TrainingProgress
from hf_compress.training.context import Context
from hf_compress.training.resumable import Attempts
from hf_compress.training.teacher_outputs import answered
from hf_compress.training.trainer import StudentTrainer


def train(
    model: PreTrainedModel,
    context: Context,
    config: TrainingConfig,
    teacher: LoadedModel | None = None,
    ranges: nn.Module | None = None,
) -> dict[str, Any]:
    """Train `model` in place and leave it at the epoch that the task's deciding metric finds best.

    Where every epoch is worse than the model was, it stays as it was.

    Args:
        config: how to train; with `teacher` it is a `LossConfig`.
        teacher: distil from this model; None trains on the labels.
        ranges: what hooks of the model learn beside its weights; see `StudentTrainer`.

    Returns:
        Details for the report: what it began with, the best epoch and one row an epoch.

    Raises:
        RunError: the loss is not finite, or labels are missing.
    """
    budget = Budget(config)
    data = context.data
    names = ["ce"] if teacher is None else [term.loss for term in config.terms]
    wanted = [name for name in names if LOSSES.get(name).needs_labels]
    if wanted and not data.train.labelled:
        raise RunError(
            f"loss '{wanted[0]}' needs labels, and no training image has one; mse, kl and dist do without them"
        )
    if teacher is not None and (lost := context.task.foreseen(LoadedModel(model, context.processor, ""), teacher)):
        context.log(lost)
    first_ranges = copy.deepcopy(ranges.state_dict()) if ranges is not None else None
    masks = HoldMasks(parameter for name, parameter in model.named_parameters() if name in context.sparse_parameters)

    def ask(images: ImageSplit, epochs: int) -> ImageSplit:
        if teacher is None or any(term.layers for term in config.terms):
            return images
        return answered(images, teacher, context, epochs)

    def build(images: ImageSplit, **options: Any) -> StudentTrainer:
        live = teacher if images.teacher_outputs is None else None
        if ranges is not None:
            ranges.load_state_dict(first_ranges)
        return StudentTrainer(
            model=model,
            data_collator=Collator(context.processor, live.processor if live else None, context.task.targets),
            train_dataset=images,
            eval_dataset=data.validation,
            callbacks=[masks, ShowEpoch(images)],
            teacher=live.model if live else None,
            teacher_labels=teacher.label_names if teacher else None,
            loss_config=config if teacher else None,
            task=context.task,
            compile=config.compile,
            ranges=ranges,
            **options,
        )

    return fit(build, data.training if teacher is None else data.with_unlabelled, ask, budget, context)


def fit(
    build: Callable[..., Trainer], images: ImageSplit | ImageStream, ask: Ask, budget: Budget, context: Context
) -> dict[str, Any]:
    """Train, with progress shown, and leave the model at its best epoch, in eval mode on the CPU.

    Where every epoch is worse than what the training began with, that is kept.

    The training goes on where an interrupted one left off. When memory runs out, or when the loss is not finite and
    the recipe says so, it goes on from the last whole epoch with smaller batches or a lower learning rate.

    Args:
        build: makes a `Resumable` trainer of a model from images, `args` and `optimizer_cls_and_kwargs`; its
            `compute_metrics` gives the task's deciding metric.
        images: to learn from.
        ask: adds what a teacher says to them.
        budget: the section of the recipe, and since when its minutes count.

    Returns:
        Details for the report: what it began with, the best epoch and one row an epoch, what fitted into the minutes,
        and what had to be changed to go on.

    Raises:
        Diverged: the loss is not finite.
        RunError: memory runs out with a single image, too, or batch norms would learn from one at a time.
    """
    config, metric = budget.config, context.task.deciding
    folder = context.part()
    attempts = Attempts(folder, config)
    initial: dict[str, Tensor] = {}

    def attempt(batch_size: int, shown: ImageSplit, trial: TimeTrial | None, steps: int) -> Trainer:
        while True:
            now = config.model_copy(update={"batch_size": batch_size, "learning_rate": attempts.learning_rate})
            checkpoints = attempts.checkpoints if trial is None else trial.folder
            tracking = context.tracking if trial is None else None
            tracked = tracking.arguments(folder) if tracking else UNTRACKED
            arguments = training_arguments(now, context, checkpoints, attempts.accumulation, steps, tracked)
            trainer = build(shown, args=arguments, optimizer_cls_and_kwargs=optimizer(now))
            if config.average:
                trainer.evaluate_average(config.average)
            if trial is not None:
                trial.watch(trainer)
            else:
                trainer.add_callback(BeginEvaluated(trainer))
            require_pairs(trainer.model, trainer.train_dataset, batch_size, config.freeze_batch_norms)
            if initial:
                trainer.model.load_state_dict(initial)
            else:
                initial.update((name, tensor.cpu().clone()) for name, tensor in trainer.model.state_dict().items())
            try:
                with (
                    tracking.following(trainer, folder, context.log) if tracking else nullcontext(),
                    frozen_statistics(trainer.model) if config.freeze_batch_norms else nullcontext(),
                ):
                    _train(trainer, context.log if trial is None else lambda line: None)
                return trainer
            except Diverged as error:
                attempts.lower_rate(error)
                context.log(
                    f"  {error.reason}: learning rate {attempts.learning_rate:.3g} from the last good epoch on"
                )
            finally:
                _leave_autocast(trainer)

    def run(shown: ImageSplit, trial: TimeTrial | None = None, steps: int = -1) -> Trainer:
        work = partial(attempt, shown=shown, trial=trial, steps=steps)
        return in_fitting_batches(work, attempts.batch_size, attempts.shrink)

    shown = budget.plan(images, ask, run, folder, context.log)
    trainer = run(shown, steps=budget.steps)
    began, history = _history(trainer.state.log_history, metric.name)
    kept = best_epoch(began, history, metric)
    if kept:
        trainer.load_best()
    else:
        trainer.model.load_state_dict(initial)
        context.log("  every epoch is worse than before the training: the model stays as it was")
    trainer.model.eval().to("cpu")
    return {"began": began, "best_epoch": kept, "epochs": history, **budget.details, **attempts.details}


def _train(trainer: Trainer, log: Callable[[str], None]) -> None:
    progress = TrainingProgress(log)
    trainer.add_callback(progress)
    for callback in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(callback)
    use_channels_last(trainer.model)
    with progress.bar:
        trainer.train_on()


def _leave_autocast(trainer: Trainer) -> None:
    """Accelerate wraps a model's forward for bf16 and fp16, and the Trainer leaves it so: measure in float32 again."""
    trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    vars(trainer.model).pop("forward", None)


def quality_kept(details: dict[str, Any], metric: Metric) -> float:
    """Return what a training came to on validation images, from its details."""
    return [details.get("began"), *details["epochs"]][details["best_epoch"]][f"validation_{metric.name}"]


def best_epoch(began: dict[str, float], epochs: list[dict[str, Any]], metric: Metric) -> int:
    """Return the number of the best epoch, or 0 where all are worse than what the training began with."""
    found = [entry[f"validation_{metric.name}"] for entry in [*epochs, began]]
    return (metric.best(found) + 1) % len(found)


def _history(log: list[dict[str, Any]], metric: str) -> tuple[dict[str, float], list[dict[str, Any]]]:
    losses = [entry["loss"] for entry in log if "loss" in entry]
    began, *found = [entry[f"eval_{metric}"] for entry in log if f"eval_{metric}" in entry]
    name = f"validation_{metric}"
    return {name: began}, [
        {"epoch": epoch, "training_loss": loss, name: value}
        for epoch, (loss, value) in enumerate(zip(losses, found, strict=True), start=1)
    ]
