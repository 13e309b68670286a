"""Training and evaluation, both by transformers' Trainer."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler, Subset
from transformers import BaseImageProcessor, PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import TrainOutput, has_length

from hf_compress.allocator import freed_memory_kept
from hf_compress.batching import require_pairs, without_single
from hf_compress.compiling import compiled
from hf_compress.config import TrainingConfig
from hf_compress.context import Context
from hf_compress.data import Collator, ImageData, ImageSplit
from hf_compress.data.images import IGNORED_LABEL, batches, spread
from hf_compress.data.streaming import ImageStream
from hf_compress.errors import Diverged, RunError, UsageError
from hf_compress.hub.load import LoadedModel
from hf_compress.labels import labels_of, order_of, reordered
from hf_compress.layout import use_channels_last
from hf_compress.looking import same_config, same_random_state, twin
from hf_compress.measure.detail import by_class, reliability
from hf_compress.measure.quality import accuracy, quality, quality_by_image
from hf_compress.memory import in_fitting_batches
from hf_compress.progress import EvaluationProgress, TrainingProgress
from hf_compress.resumable import Attempts, Resumable
from hf_compress.steps.distillation.config import LOSSES, LossConfig
from hf_compress.steps.distillation.criterion import Criterion
from hf_compress.steps.distillation.features import Answer, answer
from hf_compress.teacher_outputs import answered, logits_of

EVALUATION_BATCH = 128
PROJECTORS = "projectors.safetensors"


class CompressionTrainer(Trainer):
    """transformers' Trainer with two changes: the training loss may compare the outputs with a teacher's, and no batch
    of several images is followed by a last one of a single image, from which a batch norm cannot learn.

    Args:
        teacher: model that sees `teacher_pixel_values`, or `pixel_values` where a batch has no own view for it;
            not needed where batches hold its logits as `teacher_outputs`. A twin of it is asked: it stays as it is.
        teacher_labels: class names in the order of the teacher's logits; those of its config when not given.
        loss_config: names the distillation losses and their options; None trains with cross-entropy alone.
        compile: train with compiled models; evaluation stays eager.

    Attributes:
        criterion: the loss against the teacher.
        teacher_order: index, among the teacher's logits, of each class of the model; None where the order is the same.

    Raises:
        UsageError: logits are compared, and the teacher's classes are not those of the model.
    """

    def __init__(
        self,
        *args: Any,
        teacher: PreTrainedModel | None = None,
        teacher_labels: list[str] | None = None,
        loss_config: LossConfig | None = None,
        compile: bool = False,
        **kwargs: Any,
    ):
        with same_config(kwargs["model"] if "model" in kwargs else next(iter(args), None)):
            super().__init__(*args, **kwargs)
        self.in_training = cache(compiled) if compile else lambda model: model
        self.model_accepts_loss_kwargs = False
        self.teacher = None if teacher is None else twin(teacher).to(self.args.device)
        self.criterion = Criterion(loss_config) if loss_config is not None else None
        if self.criterion is not None:
            self.add_callback(ClearGradients(self.criterion))
        compares = self.criterion is not None and self.criterion.compares_logits
        self.teacher_order = (
            order_of(teacher_labels or labels_of(teacher), labels_of(self.model)) if compares else None
        )
        if self.teacher is not None:
            use_channels_last(self.teacher)

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as ever, with the memory of a step left to the next."""
        with freed_memory_kept():
            return super().train(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """Tell a stream the size of its batches: the last one is divided among the processes, two images at least."""
        if isinstance(self.train_dataset, ImageStream):
            self.train_dataset.batch_size = self._train_batch_size
            self.train_dataset.least = self.args.world_size + 1
        return super().get_train_dataloader()

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        """Leave out the last image of an epoch's random order where it would be a batch alone."""
        sampler = super()._get_train_sampler(train_dataset)
        if isinstance(sampler, RandomSampler):
            shown = without_single(len(sampler), self._train_batch_size)
            return RandomSampler(sampler.data_source, num_samples=shown)
        return sampler

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the distillation loss while training, where there is one, otherwise the cross-entropy."""
        labels = inputs.get("labels")
        run = self.in_training(model) if model.training else model
        if model.training and self.criterion is not None:
            student = answer(run, inputs["pixel_values"], self.criterion.student_layers, owner=self.model)
            logits, loss = student.logits, self.criterion(student, self._teacher_answer(inputs), labels)
        else:
            logits = run(pixel_values=inputs["pixel_values"]).logits
            loss = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED_LABEL)
        if model.training:
            self.stop_unless_finite(loss)
        return (loss, {"logits": logits}) if return_outputs else loss

    def _teacher_answer(self, inputs: dict[str, Any]) -> Answer:
        """Return what the teacher says to a batch, which may hold it already, in the model's order of classes."""
        if "teacher_outputs" in inputs:
            said = Answer(inputs["teacher_outputs"])
        else:
            with torch.no_grad():
                teacher = self.in_training(self.teacher)
                said = answer(teacher, _teacher_view(inputs), self.criterion.teacher_layers, owner=self.teacher)
        return replace(said, logits=reordered(said.logits, self.teacher_order))

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Match the layers that losses compare, and train the projectors between them together with the model."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.criterion is None or not self.criterion.student_layers:
            return optimizer
        if max(self.args.n_gpu, self.args.world_size) > 1:
            raise UsageError(
                "losses that compare layers train on one device: start one process, with one of them in "
                "CUDA_VISIBLE_DEVICES"
            )
        batch = self._prepare_inputs(next(iter(self.get_train_dataloader())))
        self.criterion.match_layers(self.model, self.teacher, batch["pixel_values"], _teacher_view(batch))
        held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        if added := [parameter for parameter in self.criterion.parameters() if parameter not in held]:
            optimizer.add_param_group({"params": added})
        return optimizer

    def stop_unless_finite(self, loss: Tensor) -> None:
        """Raise `Diverged`, which names step, epoch and batch, when the training loss is not a number any more.

        That of any process counts: one that stopped alone would leave the others waiting for its gradients.
        """
        loss = self.accelerator.reduce(loss.detach(), "mean")
        if not torch.isfinite(loss):
            where = {"step": self.state.global_step + 1}
            loader = self.callback_handler.train_dataloader
            if has_length(loader):
                steps = math.ceil(len(loader) / self.args.gradient_accumulation_steps)
                epoch, batch = divmod(self.state.global_step, steps)
                where |= {"epoch": epoch + 1, "batch": batch + 1}
            raise Diverged(f"the training loss became {loss.item()}", where)

    def _set_signature_columns_if_needed(self) -> None:
        """Count the teacher's view, and what it says, among the columns that are used."""
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns += ["teacher_pixel_values", "teacher_outputs"]


class StudentTrainer(Resumable, CompressionTrainer):
    """The Trainer of a recipe's trainings; its checkpoints hold the projectors of the losses, too."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.criterion is not None:
            save_model(self.criterion, str(Path(output_dir or self.args.output_dir) / PROJECTORS))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.criterion is not None and checkpoint is not None:
            load_model(self.criterion, str(Path(checkpoint) / PROJECTORS))


def _teacher_view(inputs: dict[str, Any]) -> Tensor:
    return inputs.get("teacher_pixel_values", inputs["pixel_values"])


class ClearGradients(TrainerCallback):
    """Clears the gradients of a criterion's projectors; the Trainer clears only the model's own."""

    def __init__(self, criterion: Criterion):
        self.criterion = criterion

    def on_step_end(self, args, state, control, **kwargs):
        for parameter in self.criterion.parameters():
            parameter.grad = None


class ShowEpoch(TrainerCallback):
    """Tells images in which epoch they are shown; accelerate tells its own sampler only."""

    def __init__(self, images: ImageSplit):
        self.images = images

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.images.epoch = round(state.epoch)


class HoldMasks(TrainerCallback):
    """Keeps pruned weights at zero: what is zero in these parameters now stays zero."""

    def __init__(self, parameters: Iterable[nn.Parameter]):
        self.parameters = list(parameters)
        self.set_masks()

    def set_masks(self) -> None:
        """Hold what is zero now."""
        self.masks = [parameter.detach() != 0 for parameter in self.parameters]

    def on_train_begin(self, args, state, control, **kwargs):
        pairs = zip(self.masks, self.parameters, strict=True)
        self.masks = [mask.to(parameter.device) for mask, parameter in pairs]

    def on_optimizer_step(self, args, state, control, **kwargs):
        with torch.no_grad():
            for parameter, mask in zip(self.parameters, self.masks, strict=True):
                parameter.masked_fill_(~mask, 0)


@dataclass
class Predictions:
    """Outputs for a split: logits (images, classes) and labels (images,), on the CPU."""

    logits: Tensor
    labels: Tensor


def train(
    model: PreTrainedModel, context: Context, config: TrainingConfig, teacher: LoadedModel | None = None
) -> dict[str, Any]:
    """Train `model` in place and leave it at the epoch with the best validation accuracy.

    Args:
        config: how to train; with `teacher` it is a `LossConfig`.
        teacher: distil from this model; None trains on the labels.

    Returns:
        Details for the report: the best epoch and one row an epoch.

    Raises:
        RunError: the loss is not finite, or labels are missing.
    """
    data = context.data
    names = ["ce"] if teacher is None else [term.loss for term in config.terms]
    wanted = [name for name in names if LOSSES.get(name).needs_labels]
    if wanted and not data.train.labelled:
        raise RunError(
            f"loss '{wanted[0]}' needs labels, and no training image has one; mse, kl and dist do without them"
        )
    images = data.training if teacher is None else data.with_unlabelled
    if teacher is not None and not any(term.layers for term in config.terms):
        images = answered(images, teacher, logits_of, context, config.epochs)
    live = teacher if images.teacher_outputs is None else None
    sparse = [parameter for name, parameter in model.named_parameters() if name in context.sparse_parameters]
    build = partial(
        StudentTrainer,
        model=model,
        data_collator=Collator(context.processor, live.processor if live else None),
        train_dataset=images,
        eval_dataset=data.validation,
        compute_metrics=lambda output: accuracy(torch.tensor(output.predictions), torch.tensor(output.label_ids)),
        callbacks=[HoldMasks(sparse), ShowEpoch(images)],
        teacher=live.model if live else None,
        teacher_labels=teacher.label_names if teacher else None,
        loss_config=config if teacher else None,
        compile=config.compile,
    )
    return fit(build, config, context, metric="accuracy")


def fit(build: Callable[..., Trainer], config: TrainingConfig, context: Context, metric: str) -> dict[str, Any]:
    """Train, with progress shown, and leave the model at its best epoch, in eval mode on the CPU.

    The training goes on where an interrupted one left off. When memory runs out, or when the loss is not finite and
    the recipe says so, it goes on from the last whole epoch with smaller batches or a lower learning rate.

    Args:
        build: makes a `Resumable` trainer of a model from `args` and `optimizer_cls_and_kwargs`.
        metric: of the trainer's `compute_metrics`; the epoch with the highest is the best.

    Returns:
        Details for the report: the best epoch and one row an epoch, and what had to be changed to go on.

    Raises:
        Diverged: the loss is not finite.
        RunError: memory runs out with a single image, too, or batch norms would learn from one at a time.
    """
    attempts = Attempts(context.part(), config)
    initial: dict[str, Tensor] = {}

    def attempt(batch_size: int) -> Trainer:
        while True:
            now = config.model_copy(update={"batch_size": batch_size, "learning_rate": attempts.learning_rate})
            arguments = training_arguments(now, context, metric, attempts.checkpoints, attempts.accumulation)
            trainer = build(args=arguments, optimizer_cls_and_kwargs=optimizer(now))
            require_pairs(trainer.model, trainer.train_dataset, batch_size)
            if initial:
                trainer.model.load_state_dict(initial)
            else:
                initial.update((name, tensor.cpu().clone()) for name, tensor in trainer.model.state_dict().items())
            try:
                _train(trainer, context.log)
                return trainer
            except Diverged as error:
                attempts.lower_rate(error)
                context.log(
                    f"  {error.reason}: learning rate {attempts.learning_rate:.3g} from the last good epoch on"
                )
            finally:
                _leave_autocast(trainer)

    trainer = in_fitting_batches(attempt, attempts.batch_size, attempts.shrink)
    trainer.load_best()
    trainer.model.eval().to("cpu")
    history = _history(trainer.state.log_history, metric)
    best = max(range(len(history)), key=lambda epoch: history[epoch][f"validation_{metric}"])
    return {"best_epoch": best + 1, "epochs": history, **attempts.details}


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


def predict(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    images: ImageSplit,
    workers: int = 0,
    batch_size: int = EVALUATION_BATCH,
) -> Predictions:
    """Return the model's logits for every image of a split, without augmentation.

    When memory runs out, batches are halved; see `memory.in_fitting_batches`.
    """
    return in_fitting_batches(partial(_predict, model, processor, images, workers), batch_size)


def _predict(
    model: PreTrainedModel, processor: BaseImageProcessor, images: ImageSplit, workers: int, batch_size: int
) -> Predictions:
    arguments = TrainingArguments(
        output_dir=tempfile.gettempdir(),  # nothing is written there
        per_device_eval_batch_size=batch_size,
        dataloader_num_workers=workers,
        **transfer(),
        disable_tqdm=True,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
    )
    model, progress = twin(model), EvaluationProgress()
    use_channels_last(model)
    with same_random_state(), progress.bar:
        trainer = CompressionTrainer(
            model=model, args=arguments, data_collator=Collator(processor), callbacks=[progress]
        )
        trainer.remove_callback(PrinterCallback)
        output = trainer.predict(images.without_augmentation())
    return Predictions(torch.tensor(output.predictions), torch.tensor(output.label_ids))


def evaluate(model: PreTrainedModel, processor: BaseImageProcessor, data: ImageData, split: str) -> dict[str, float]:
    """Return the quality of `model` on one split: see `measure.quality.quality`."""
    output = predict(model, processor, data.splits[split], data.workers)
    return quality(output.logits, output.labels)


def evaluate_in_detail(loaded: LoadedModel, data: ImageData, split: str) -> dict[str, Any]:
    """Return the parts of a report's row that tell how well a model classifies one split.

    Returns:
        `quality`, and where the logits are finite `classes` and `reliability`: see `measure.detail`. And `by_image`,
        which no report holds: for each metric one number a labelled image.
    """
    output = predict(loaded.model, loaded.processor, data.splits[split], data.workers)
    by_image = quality_by_image(output.logits, output.labels)
    result: dict[str, Any] = {
        "quality": {metric: float(values.mean()) for metric, values in by_image.items()},
        "by_image": {metric: values.tolist() for metric, values in by_image.items()},
    }
    if result["quality"] and output.logits.isfinite().all():
        result["classes"] = by_class(output.logits, output.labels)
        result["reliability"] = reliability(output.logits, output.labels)
    return result


def reestimate_batch_norm(model: PreTrainedModel, context: Context, images: int = 2048) -> None:
    """Recompute the running statistics of batch norms from training images, as after the removal of channels.

    Exact averages over the batches replace the moving ones (torch.optim.swa_utils.update_bn).

    Raises:
        RunError: there is a single training image, or memory for no more.
    """
    chosen = spread(context.data.train, images)

    def update(batch_size: int) -> None:
        require_pairs(model, chosen, batch_size)
        shown = Subset(chosen, range(without_single(len(chosen), batch_size)))
        loader = batches(shown, context.processor, batch_size)
        progress = track(loader, "Re-estimating batch norms", transient=True)
        torch.optim.swa_utils.update_bn((batch["pixel_values"] for batch in progress), model)

    in_fitting_batches(update, EVALUATION_BATCH)
    model.eval()


def training_arguments(
    config: TrainingConfig, context: Context, metric: str, folder: Path, accumulation: int = 1
) -> TrainingArguments:
    """Return the Trainer's arguments for a section of the recipe.

    Args:
        metric: the epoch with the highest is the best.
        folder: of the checkpoints.
        accumulation: batches from which one step learns.
    """
    return TrainingArguments(
        output_dir=str(folder),
        gradient_accumulation_steps=accumulation,
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=EVALUATION_BATCH,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        lr_scheduler_type=config.scheduler
        if not (config.scheduler == "constant" and config.warmup)
        else "constant_with_warmup",
        warmup_steps=config.warmup,
        bf16=config.precision == "bf16",
        fp16=config.precision == "fp16",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        metric_for_best_model=metric,
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_num_workers=context.data.workers,
        **transfer(),
        logging_nan_inf_filter=False,  # `stop_unless_finite` has looked already
        disable_tqdm=True,
        seed=context.seed,
        report_to="none",
    )


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


def _history(log: list[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    losses = [entry["loss"] for entry in log if "loss" in entry]
    evaluations = [entry for entry in log if f"eval_{metric}" in entry]
    return [
        {"epoch": epoch, "training_loss": loss, f"validation_{metric}": entry[f"eval_{metric}"]}
        for epoch, (loss, entry) in enumerate(zip(losses, evaluations, strict=True), start=1)
    ]
