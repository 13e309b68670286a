"""transformers' Trainer, which here may learn from a teacher."""

import math
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, Sampler
from transformers import PreTrainedModel, Trainer
from transformers.trainer_utils import EvalPrediction, PredictionOutput, TrainOutput, has_length

from hf_compress.checkpoint.labels import labels_of, order_of
from hf_compress.data.streaming import ImageStream
from hf_compress.ground import processes
from hf_compress.ground.errors import Diverged, UsageError
from hf_compress.ground.looking import in_float32, same_config, twin
from hf_compress.ground.memory import freed_memory_kept
from hf_compress.ground.processor import compiled
from hf_compress.ground.tensors import use_channels_last
from hf_compress.losses.criterion import DistillationCriterion
from hf_compress.losses.layer_maps import Answer, answer
from hf_compress.sections.distillation import LossConfig
from hf_compress.tasks.base import Predictions, Task
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.training.batch_norms import without_single
from hf_compress.training.callbacks import ClearGradients
from hf_compress.training.resumable import Resumable

PROJECTORS, RANGES = "projectors.safetensors", "ranges.safetensors"


class DistillationTrainer(Trainer):
    """transformers' Trainer with two changes: the training loss may compare the outputs with a teacher's, and no batch
    of several images is followed by a last one of a single image, from which a batch norm cannot learn.

    Checkpoints hold the projectors of the losses, too.

    Args:
        teacher: model that sees `teacher_pixel_values`, or `pixel_values` where a batch has no own view for it;
            not needed where batches hold its logits as `teacher_outputs`. A twin of it is asked: it stays as it is.
        teacher_labels: class names in the order of the teacher's logits; those of its config when not given.
        loss_config: names the distillation losses and their options; None trains with the loss of the task alone.
        task: what the models are for.
        compile: train with compiled models; evaluation stays eager.
        whole: keep all outputs in an evaluation, not only what the task keeps of them.

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
        task: Task = CLASSIFICATION,
        compile: bool = False,
        whole: bool = False,
        **kwargs: Any,
    ):
        with same_config(kwargs["model"] if "model" in kwargs else next(iter(args), None)):
            super().__init__(*args, **kwargs)
        self.task, self.whole = task, whole
        self.in_training = cache(compiled) if compile else lambda model: model
        self.model_accepts_loss_kwargs = False
        self.teacher = self.criterion = self.teacher_order = None
        if teacher is not None:
            self.teacher = in_float32(twin(teacher)).to(self.args.device)
            use_channels_last(self.teacher)
        if loss_config is not None:
            self.criterion = DistillationCriterion(loss_config, task.compare)
            self.add_callback(ClearGradients(self.criterion))
            if self.criterion.compares_logits and task.classes:
                self.teacher_order = order_of(teacher_labels or labels_of(teacher), labels_of(self.model))

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
        """Return the distillation loss while training, where there is one, otherwise that of the task."""
        run = self.in_training(model) if model.training else model
        if model.training and self.criterion is not None:
            teacher = self._teacher_answer(inputs)
            ask = partial(self.task.learn, run, teacher=teacher.outputs)
            student = answer(ask, inputs, self.criterion.student_layers, self.model)
            said, loss = student.outputs, self.criterion(student, teacher, inputs)
        else:
            output = self.task.forward(run, inputs)
            said, loss = self._kept(output, inputs), self.task.loss(output, inputs)
        self.output_names = list(said)
        if model.training:
            self.stop_unless_finite(loss)
        return (loss, said) if return_outputs else loss

    def prediction_step(self, *args, **kwargs):
        """Keep of the targets of a batch what the task keeps; those of all images may be more than memory holds."""
        loss, said, labels = super().prediction_step(*args, **kwargs)
        return loss, said, labels if self.whole else self.task.targets_kept(labels)

    def as_predictions(self, output: EvalPrediction | PredictionOutput) -> Predictions:
        """Return what was said to all images of an evaluation, by name."""
        given = output.predictions if isinstance(output.predictions, tuple) else (output.predictions,)
        tensors = map(torch.tensor, given)
        return Predictions(dict(zip(self.output_names, tensors, strict=True)), torch.tensor(output.label_ids))

    def _kept(self, output: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
        """Return what is said of a batch: as much as measuring needs, where nothing is learnt."""
        if self.model.training or self.whole:
            return self.task.outputs(output)
        return self.task.kept(output, inputs, getattr(self.data_collator, "processor", None))

    def _teacher_answer(self, inputs: dict[str, Any]) -> Answer:
        """Return what the teacher says to a batch, which may hold it already, in the model's order of classes."""
        if "teacher_outputs" in inputs:
            said = Answer(inputs["teacher_outputs"])
        else:
            with torch.no_grad():
                ask = partial(self.task.answer, self.in_training(self.teacher))
                said = answer(ask, _teacher_view(inputs), self.criterion.teacher_layers, self.teacher)
        return replace(said, outputs=self.task.in_order(said.outputs, self.teacher_order))

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

        def show() -> None:
            was_training = self.model.training
            self.model.eval()(pixel_values=batch["pixel_values"])
            self.model.train(was_training)
            self.teacher(pixel_values=_teacher_view(batch))

        self.criterion.match_layers(self.model, self.teacher, show)
        held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
        if added := [parameter for parameter in self.criterion.parameters() if parameter not in held]:
            optimizer.add_param_group({"params": added, "weight_decay": self.args.weight_decay})
        return optimizer

    def _beside(self) -> dict[str, nn.Module]:
        """Return what checkpoints hold beside the model, by the name of the file."""
        return {} if self.criterion is None or not self.criterion.projectors else {PROJECTORS: self.criterion}

    def _save_beside(self, checkpoint: Path) -> None:
        for name, module in self._beside().items():
            save_model(module, str(checkpoint / name))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        for name, module in self._beside().items() if checkpoint is not None else ():
            load_model(module, str(Path(checkpoint) / name))

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


class StudentTrainer(Resumable, DistillationTrainer):
    """The Trainer of a recipe's trainings.

    After every epoch it is measured by the deciding metric of the task.

    Args:
        ranges: what hooks of the model learn beside its weights in training; checkpoints hold it. Of several
            processes, which see other images, all take that of the main one after each epoch.
    """

    def __init__(self, *args: Any, ranges: nn.Module | None = None, **kwargs: Any):
        super().__init__(*args, compute_metrics=lambda said: self.task.decide(self.as_predictions(said)), **kwargs)
        self.ranges = ranges

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as ever, with the ranges of the main process."""
        if self.ranges is not None and processes.count() > 1:
            found = {name: tensor.cpu() for name, tensor in self.ranges.state_dict().items()}
            self.ranges.load_state_dict(processes.from_main(found))
        return super().evaluate(*args, **kwargs)

    def _beside(self) -> dict[str, nn.Module]:
        return super()._beside() | ({} if self.ranges is None else {RANGES: self.ranges})

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, state_dict)
        self._save_beside(Path(output_dir or self.args.output_dir))


def _teacher_view(inputs: dict[str, Any]) -> Tensor:
    return inputs.get("teacher_pixel_values", inputs["pixel_values"])
