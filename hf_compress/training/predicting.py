"""What a model says to every image of a split."""

import tempfile

from transformers import BaseImageProcessor, PreTrainedModel
from transformers.trainer_callback import PrinterCallback

from hf_compress.data import Collator, ImageData, ImageSplit
from hf_compress.data.images import fitting_batch
from hf_compress.ground.looking import same_random_state, twin
from hf_compress.ground.memory import in_fitting_batches
from hf_compress.ground.tensors import use_channels_last
from hf_compress.models.load import LoadedModel
from hf_compress.tasks.base import Predict, Predictions, Task
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.training.arguments import EVALUATION_BATCH, on_one_device, shared_arguments
from hf_compress.training.callbacks import EvaluationProgress
from hf_compress.training.trainer import DistillationTrainer


def predict(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    images: ImageSplit,
    workers: int = 0,
    batch_size: int = EVALUATION_BATCH,
    task: Task = CLASSIFICATION,
    whole: bool = False,
) -> Predictions:
    """Return what a task keeps of the outputs for each image of a split, without augmentation; if `whole`, all.

    When memory runs out, batches are halved; see `memory.in_fitting_batches`.
    """

    def run(size: int) -> Predictions:
        looked_at, progress = twin(model), EvaluationProgress()
        use_channels_last(looked_at)
        folder = tempfile.gettempdir()  # nothing is written there
        with same_random_state(), progress.bar:
            trainer = DistillationTrainer(
                model=looked_at,
                args=on_one_device(output_dir=folder, per_device_eval_batch_size=size, **shared_arguments(workers)),
                data_collator=Collator(processor, targets=task.targets),
                callbacks=[progress],
                task=task,
                whole=whole,
            )
            trainer.remove_callback(PrinterCallback)
            output = trainer.predict(images.without_augmentation())
        return trainer.as_predictions(output)

    return in_fitting_batches(run, fitting_batch(processor, batch_size))


def evaluate(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    data: ImageData,
    split: str,
    task: Task = CLASSIFICATION,
) -> dict[str, float]:
    """Return the quality of `model` on one split: see `Task.quality`."""
    return task.quality(predict(model, processor, data.splits[split], data.workers, task=task))


def predictor(task: Task, workers: int) -> Predict:
    """Return `predict` as tasks call it."""

    def ask(loaded: LoadedModel, images: ImageSplit, whole: bool = False) -> Predictions:
        return predict(loaded.model, loaded.processor, images, workers, task=task, whole=whole)

    return ask
