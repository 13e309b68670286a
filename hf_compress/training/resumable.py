"""A training that an interruption costs at most one epoch."""

import math
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, get_last_checkpoint
from transformers.utils import SAFE_WEIGHTS_NAME

from hf_compress.ground import processes
from hf_compress.ground.errors import Diverged
from hf_compress.ground.memory import in_fitting_batches, next_divisor
from hf_compress.ground.sealed import (
    read_sealed,
    refuse_damaged,
    remove_sealed,
    sealed_folder,
    sealed_in,
    write_sealed,
)
from hf_compress.sections.base import TrainingConfig
from hf_compress.training.averaging import AverageWeights

MOST_RETRIES = 3
AVERAGE = "average.safetensors"


class Resumable:
    """Gives a Trainer checkpoints that are whole or not there, and that hold finite weights alone.

    A checkpoint holds the model, the optimizer, the scheduler, the random state of every process and the history, and
    the average of the weights where that is what is evaluated. The main process writes it.
    """

    average: AverageWeights | None = None

    def evaluate_average(self, share: float) -> None:
        """Evaluate, and keep for the end, the moving average of the weights, of which `share` stays in a step."""
        self.average = AverageWeights(share)
        self.add_callback(self.average)

    def train_on(self) -> None:
        """Train, from the last checkpoint in `args.output_dir` where there is one.

        The Trainer would make one more step of a training that ended within an epoch.
        """
        checkpoint = processes.on_main(self._last_checkpoint)
        if checkpoint is not None:
            self.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
            if self.state.global_step >= self.state.max_steps:
                return
        self.train(resume_from_checkpoint=checkpoint)

    def _last_checkpoint(self) -> str | None:
        """Return the checkpoint to go on from.

        Raises:
            RunError: one that lies there was damaged.
        """
        folder = Path(self.args.output_dir)
        for checkpoint in {*folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), *sealed_in(folder)}:
            refuse_damaged(checkpoint, folder)
        return get_last_checkpoint(str(folder)) if folder.is_dir() else None

    def load_best(self) -> None:
        """Give the model the weights of the best epoch."""
        checkpoint = self._checkpoint(self.state.best_global_step)
        load_model(self.model, str(checkpoint / SAFE_WEIGHTS_NAME))
        if self.average is not None:
            self.model.load_state_dict(load_file(checkpoint / AVERAGE), strict=False)  # whole numbers are not averaged

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as ever; when memory runs out, with smaller batches."""

        def run(batch_size: int) -> dict[str, float]:
            self.args.per_device_eval_batch_size = batch_size
            return super(Resumable, self).evaluate(*args, **kwargs)

        with self.average.shown() if self.average is not None else nullcontext():
            return in_fitting_batches(run, self.args.per_device_eval_batch_size)

    def _checkpoint(self, step: int) -> Path:
        return Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a whole checkpoint; keep it and the best epoch's, which may be the same, and no other."""
        bad = next((name for name, weight in self.model.named_parameters() if not weight.isfinite().all()), None)
        if bad is not None:
            where = {"step": self.state.global_step, "epoch": math.ceil(self.state.epoch)}
            raise Diverged(f"the weights '{bad}' are not finite", where)
        random_states = processes.gathered(self._random_state())
        if processes.is_main():
            with sealed_folder(self._checkpoint(self.state.global_step)) as new:
                self._save(str(new))
                self._save_optimizer_and_scheduler(str(new))
                self._save_scaler(str(new))
                for name, content in random_states:
                    (new / name).write_bytes(content)
                self.state.save_to_json(str(new / TRAINER_STATE_NAME))
            self._remove_old_checkpoints()
        processes.wait()

    def _random_state(self) -> list[tuple[str, bytes]]:
        """Return the name and the content of the file in which the Trainer keeps this process's random state."""
        with tempfile.TemporaryDirectory() as folder:
            self._save_rng_state(folder)
            return [(file.name, file.read_bytes()) for file in Path(folder).iterdir()]

    def _remove_old_checkpoints(self) -> None:
        kept = {self._checkpoint(self.state.global_step), self._checkpoint(self.state.best_global_step)}
        for checkpoint in Path(self.args.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            if checkpoint not in kept:
                remove_sealed(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Write the weights of an epoch under the names that the module has in memory.

        The Trainer writes checkpoints of ViT, Swin and others under their Hub names but reads them by the names in
        memory, skipping what it does not find (transformers issue 48805): those weights would stay what they were.
        """
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / SAFE_WEIGHTS_NAME))
        if self.average is not None:
            save_file({name: tensor.contiguous() for name, tensor in self.average.values.items()}, folder / AVERAGE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Go on with the learning rate of the arguments, which may have been halved since the checkpoint."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        if self.average is not None:
            self.average.values = load_file(Path(checkpoint) / AVERAGE)
        schedule, rate = self.lr_scheduler, self.args.learning_rate
        schedule.base_lrs = [rate for _ in schedule.base_lrs]
        schedule._last_lr = [rate * factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
        for group, current in zip(self.optimizer.param_groups, schedule._last_lr, strict=True):
            group["initial_lr"], group["lr"] = rate, current


class Attempts:
    """What a training had to change in order to go on, kept beside its checkpoints.

    Args:
        folder: of the checkpoints.
        config: what the recipe says.

    Attributes:
        batch_size: images in memory at once; so many forward passes make a step that it learns from
            `config.batch_size` images.
        retries: one row each time that the learning rate was halved.
    """

    def __init__(self, folder: Path, config: TrainingConfig):
        self.config = config
        self.checkpoints = folder / "checkpoints"
        self.file = folder / "attempts.json"
        self.batch_size = config.batch_size
        self.retries: list[dict[str, Any]] = []
        if self.file.is_file():
            self.batch_size, self.retries = read_sealed(self.file).values()

    @property
    def learning_rate(self) -> float:
        return self.config.learning_rate / 2 ** len(self.retries)

    @property
    def accumulation(self) -> int:
        return self.config.batch_size // self.batch_size

    @property
    def details(self) -> dict[str, Any]:
        """What belongs into the report; empty when nothing went wrong."""
        smaller = {"batch_size_in_memory": self.batch_size} if self.accumulation > 1 else {}
        return smaller | ({"retries": self.retries} if self.retries else {})

    def shrink(self, batch_size: int) -> int:
        """Return the next smaller batch, after memory ran out with `batch_size`."""
        self.batch_size = next_divisor(self.config.batch_size, batch_size)
        self._write()
        return self.batch_size

    def lower_rate(self, error: Diverged) -> None:
        """Halve the learning rate.

        Raises:
            Diverged: the recipe says stop, or it was halved often enough.
        """
        if self.config.on_nan == "stop" or len(self.retries) == MOST_RETRIES:
            raise error
        self.retries.append({"reason": error.reason, **error.where, "learning_rate": self.learning_rate / 2})
        self._write()

    def _write(self) -> None:
        if not processes.is_main():
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(self.file, {"batch_size": self.batch_size, "retries": self.retries})
