"""Distil and prune an image classifier in an ordinary transformers training script.

    python examples/image_classification_compression.py --dataset digits --model_name resnet18 --image_size 32 \\
        --output_dir runs/teacher --num_train_epochs 8 --learning_rate 1e-3
    python examples/image_classification_compression.py --dataset digits --model_name resnet18 --width 0.25 \\
        --teacher_name runs/teacher --loss mse_ce --sparsity 0.5 --output_dir runs/student --num_train_epochs 8 \\
        --learning_rate 1e-3

With your own photos (one folder a class) pass `--dataset ./photos`; with a model of the Hub `--model_name ID`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    BaseImageProcessor,
    EvalPrediction,
    HfArgumentParser,
    PreTrainedModel,
    TrainingArguments,
    set_seed,
)

from hf_compress import load
from hf_compress.adapters.optimum import CompressionTrainer, DistillationConfig, PruningConfig
from hf_compress.models.students import STUDENTS, build_registered


@dataclass
class ModelArguments:
    model_name: str = field(metadata={"help": "Hub id, folder, or a name that `hf-compress students` lists."})
    width: float = field(default=1.0, metadata={"help": "Width multiplier of a listed architecture."})
    image_size: int = field(default=32, metadata={"help": "Input size in pixels of a listed architecture."})


@dataclass
class DataArguments:
    dataset: str = field(default="digits", metadata={"help": "Hub id, folder with one folder a class, or digits."})
    test_fraction: float = field(default=0.2, metadata={"help": "Held out where the data set has no test split."})


@dataclass
class CompressionArguments:
    teacher_name: str | None = field(default=None, metadata={"help": "Distil from this model: Hub id or folder."})
    loss: str = field(default="mse", metadata={"help": "mse, mse_ce, kl, dkd or dist."})
    sparsity: float | None = field(default=None, metadata={"help": "Fraction of the weights that become zero."})
    pruning_rounds: int = field(default=5, metadata={"help": "Rounds in which they do."})


class Collator:
    """Makes batches; the teacher's view is only made where its processor is another one."""

    def __init__(self, processor: BaseImageProcessor, teacher_processor: BaseImageProcessor | None):
        self.processor = processor
        self.teacher_processor = teacher_processor

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        images = [row["image"].convert("RGB") for row in rows]
        batch = {
            "pixel_values": self.processor(images, return_tensors="pt")["pixel_values"],
            "labels": torch.tensor([row["label"] for row in rows]),
        }
        if self.teacher_processor is not None:
            batch["teacher_pixel_values"] = self.teacher_processor(images, return_tensors="pt")["pixel_values"]
        return batch


def load_images(arguments: DataArguments, seed: int) -> tuple[datasets.Dataset, datasets.Dataset]:
    """Return training and test images, with the columns `image` and `label`."""
    if arguments.dataset == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=[*map(str, range(10))]))
        pictures = [(picture * 255 / 16).astype(np.uint8) for picture in digits.images]
        data = datasets.Dataset.from_dict({"image": pictures, "label": digits.target}, features=features)
    else:
        loaded = datasets.load_dataset(arguments.dataset)
        if "test" in loaded:
            return loaded["train"], loaded["test"]
        data = loaded["train"]
    parts = data.train_test_split(arguments.test_fraction, stratify_by_column="label", seed=seed)
    return parts["train"], parts["test"]


def load_model(arguments: ModelArguments, labels: list[str]) -> tuple[PreTrainedModel, BaseImageProcessor]:
    if arguments.model_name in STUDENTS:
        size = arguments.image_size
        built = build_registered(arguments.model_name, labels, width=arguments.width, image_size=size)
        return built.model, built.processor
    loaded = load(arguments.model_name, labels=labels)
    return loaded.model, loaded.processor


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Train, save and measure; returns the metrics."""
    parser = HfArgumentParser((ModelArguments, DataArguments, CompressionArguments, TrainingArguments))
    model_arguments, data_arguments, compression, training = parser.parse_args_into_dataclasses(arguments)
    training.remove_unused_columns = False  # the collator wants the images
    set_seed(training.seed)

    train_images, test_images = load_images(data_arguments, training.seed)
    labels = train_images.features["label"].names
    model, processor = load_model(model_arguments, labels)
    teacher = teacher_processor = None
    if compression.teacher_name:
        teacher = AutoModelForImageClassification.from_pretrained(compression.teacher_name)
        teacher_processor = AutoImageProcessor.from_pretrained(compression.teacher_name)
        if set(teacher.config.id2label.values()) != set(labels):  # their order may differ
            sys.exit(f"the labels of {compression.teacher_name} are not those of {data_arguments.dataset}")

    def accuracy(output: EvalPrediction) -> dict[str, float]:
        return {"accuracy": float((output.predictions.argmax(axis=1) == output.label_ids).mean())}

    trainer = CompressionTrainer(
        model,
        training,
        data_collator=Collator(processor, teacher_processor),
        train_dataset=train_images,
        eval_dataset=test_images,
        processing_class=processor,
        compute_metrics=accuracy,
        teacher_model=teacher,
        distillation_config=DistillationConfig(loss=compression.loss) if teacher else None,
        pruning_config=PruningConfig(
            granularity="weight",
            scope="global",
            amount=compression.sparsity / compression.pruning_rounds,
            target={"sparsity": compression.sparsity},
        )
        if compression.sparsity
        else None,
    )
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    trainer.save_model()
    metrics = trainer.evaluate()
    if trainer.pruning is not None:
        metrics["eval_sparsity"] = trainer.pruning.sparsity
    trainer.log_metrics("eval", metrics)
    trainer.save_metrics("eval", metrics)
    if training.push_to_hub:
        trainer.push_to_hub()
    return metrics


if __name__ == "__main__":
    main()
