"""What happens beside the steps of a training or an evaluation: masks are held, progress is shown."""

import math
from collections.abc import Iterable

import torch
from torch import nn
from transformers import Trainer, TrainerCallback

from hf_compress.data import ImageSplit
from hf_compress.ground.looking import same_random_state
from hf_compress.ground.progress import bar
from hf_compress.losses.criterion import DistillationCriterion


class ClearGradients(TrainerCallback):
    """Clears the gradients of a criterion's projectors; the Trainer clears only the model's own."""

    def __init__(self, criterion: DistillationCriterion):
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


class BeginEvaluated(TrainerCallback):
    """Evaluates what a training begins with, without a trace in the random numbers of its steps."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if state.global_step == 0:
            with same_random_state():
                self.trainer.evaluate()


class TrainingProgress(TrainerCallback):
    """Shows a bar of training steps and calls `log` with loss and validation metric after every epoch."""

    def __init__(self, log):
        self.log = log
        self.loss = float("nan")
        self.bar = bar()

    def on_train_begin(self, args, state, control, **kwargs):
        self.task = self.bar.add_task("training", total=state.max_steps)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.loss = (logs or {}).get("loss", self.loss)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metric = args.metric_for_best_model
        value = (metrics or {}).get(f"eval_{metric}")
        if value is None:
            return
        found = f"validation {metric.replace('_', ' ')} {value:.4f}"
        if state.global_step == 0:
            self.log(f"  before the training: {found}")
        else:
            self.log(f"  epoch {math.ceil(state.epoch)} of {state.num_train_epochs}: loss {self.loss:.4g}, {found}")


class EvaluationProgress(TrainerCallback):
    """Shows a bar of evaluated batches."""

    def __init__(self):
        self.bar = bar()
        self.task = self.bar.add_task("evaluating", total=None)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        self.bar.update(self.task, advance=1, total=len(eval_dataloader))
