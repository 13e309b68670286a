"""Progress of training, as one bar and one line an epoch, and of evaluation, as a bar."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), transient=True
    )


class TrainingProgress(TrainerCallback):
    """Shows a bar of training steps and calls `log` with loss and validation metric after every epoch."""

    def __init__(self, log):
        self.log = log
        self.loss = float("nan")
        self.bar = _bar()

    def on_train_begin(self, args, state, control, **kwargs):
        self.task = self.bar.add_task("training", total=state.max_steps)

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(self.task, completed=state.global_step)

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.loss = (logs or {}).get("loss", self.loss)

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        metric = args.metric_for_best_model
        value = (metrics or {}).get(f"eval_{metric}")
        if value is not None:
            self.log(
                f"  epoch {round(state.epoch)} of {args.num_train_epochs:.0f}: "
                f"loss {self.loss:.4g}, validation {metric.replace('_', ' ')} {value:.4f}"
            )


class EvaluationProgress(TrainerCallback):
    """Shows a bar of evaluated batches."""

    def __init__(self):
        self.bar = _bar()
        self.task = self.bar.add_task("evaluating", total=None)

    def on_prediction_step(self, args, state, control, eval_dataloader=None, **kwargs):
        self.bar.update(self.task, advance=1, total=len(eval_dataloader))
