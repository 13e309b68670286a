"""The interface of a task: all that depends on what a model is for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, TypeVar

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.registry import Registry
from hf_compress.sections.models import EnsembleSection

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hf_compress.data import ImageData, ImageSplit
    from hf_compress.models.load import LoadedModel
    from hf_compress.sections.data import DataSection
    from hf_compress.tasks.sheets import Sheet

AGREEMENT = "teacher_agreement"
TOLERANCE = 0.01  # of a probability, and of an output by its largest number: rounding and resizing differ by less


@dataclass(frozen=True)
class Metric:
    """A measure of quality: a number from -1 to 1.

    Attributes:
        name: its key in reports.
        words: how tables and cards call it.
        higher_is_better: which of two values is the better one.
        share: whether it is the share of the images that are answered right.
        hub_name: its name among a card's results; None keeps it out of them.
        full_name: in a sentence that stands alone.
    """

    name: str
    words: str
    higher_is_better: bool = True
    share: bool = False
    hub_name: str | None = None
    full_name: str | None = None

    def best(self, values: Sequence[float]) -> int:
        """Return the index of the best value; of equal ones, the first."""
        return values.index((max if self.higher_is_better else min)(values))

    def lost(self, value: float, before: float) -> float:
        """Return how much worse a value is than the one `before`; negative where it is better."""
        return before - value if self.higher_is_better else value - before

    def keeps(self, value: float, before: float, most: float) -> bool:
        """Return whether at most `most` of the value `before` is lost."""
        return value >= before - most if self.higher_is_better else value <= before + most


@dataclass
class Predictions:
    """What a model says to the images of a split, on the CPU.

    Attributes:
        outputs: by name, the images along the first dimension: see `Task.outputs`.
        labels: the images' targets, as `Task.targets` makes them.
    """

    outputs: dict[str, Tensor]
    labels: Tensor


class Predict(Protocol):
    """Asks a model for what it says to a split, without augmentation.

    Args:
        whole: keep all of its outputs and targets, not only what `Task.kept` and `targets_kept` keep of them.
    """

    def __call__(self, loaded: LoadedModel, images: ImageSplit, whole: bool = False) -> Predictions: ...


T = TypeVar("T", bound="Task")
Loss = Callable[["Tensor", "Tensor", "Tensor | None"], "Tensor"]


class Task(ABC):
    """What models are for. Nothing outside this package asks which task it is.

    Attributes:
        name: in recipes and reports.
        auto_class: of transformers, which loads the models.
        pipeline_tag: of the Hub.
        noun: what a card calls a model.
        usage: lines of Python by which a card shows what to do with `model` and `inputs`.
        metrics: what `quality` holds, in the order of the tables.
        deciding: the metric that chooses epochs and pruning rounds.
        classes: whether outputs belong to the class names in a model's config, which must be those of the data.
        needs_targets: whether images without targets cannot be measured; a teacher's answers then stand for them.
        gallery: whether images are compared with the training images, which are not measured themselves then.
        general_steps: whether the steps that name no task work for it.
        trains_teachers: whether `teacher.finetune` does.
        ensembles: whether several teachers can be averaged.
        mixes: whether it trains on mixed pictures (`data.mixup`, `data.cutmix`), with the labels of both or without.
        processor_class: of transformers, for registered students.
        dense: whether each pixel is answered for, so that teacher and student must see the same part of a picture.
        answers_whole: whether `as_targets` reads all `outputs`, where `kept` keeps less.
        pictured: the caption of what `examples` shows.
        scopes: of pruning, those that a search tries, the one first that serves models of the task better.
        selects: whether `student: auto` finds students for it: image classifiers, by their `accuracy`, which decides.
    """

    name: ClassVar[str]
    auto_class: ClassVar[str]
    pipeline_tag: ClassVar[str]
    noun: ClassVar[str]
    usage: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[Metric, ...]]
    deciding: ClassVar[Metric]
    classes: ClassVar[bool] = True
    needs_targets: ClassVar[bool] = True
    gallery: ClassVar[bool] = False
    general_steps: ClassVar[bool] = True
    trains_teachers: ClassVar[bool] = True
    ensembles: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
    processor_class: ClassVar[str] = "ViTImageProcessor"
    dense: ClassVar[bool] = False
    answers_whole: ClassVar[bool] = False
    pictured: ClassVar[str] = ""
    scopes: ClassVar[tuple[str, ...]] = ("cost", "damage")
    selects: ClassVar[bool] = False

    # ---- recipes

    def takes(self, step: Any) -> bool:
        """Return whether a step works for this task: the class of the step says so in `task`."""
        return step.task == self.name or (step.task is None and self.general_steps)

    def check_recipe(self, recipe: Any) -> None:
        """Raise UsageError where a recipe of this task asks for what it does not have."""
        if isinstance(recipe.teacher, EnsembleSection) and not self.ensembles:
            raise UsageError(
                f"'teacher.ensemble' averages classes, which 'task: {self.name}' leaves out: name one teacher"
            )
        if recipe.data.mixes and not self.mixes:
            raise UsageError(
                f"'data.mixup' and 'data.cutmix' mix classes, which 'task: {self.name}' leaves out: remove them"
            )
        if recipe.student.model == "auto" and not (self.selects and self.deciding.name == "accuracy"):
            raise UsageError(
                f"'student.model: auto' compares accuracies, which 'task: {self.name}' does not have: name a student"
            )

    # ---- models

    @abstractmethod
    def load(
        self,
        name: str,
        *,
        revision: str | None = None,
        trust_remote_code: bool = False,
        labels: list[str] | None = None,
        pretrained: bool = True,
    ) -> LoadedModel:
        """Load a model in float32, in eval mode; see `models.load.load` for the arguments and errors."""

    def untrained_teacher(self, teacher: LoadedModel) -> None:
        """Refuse, or mend, a teacher whose head has random weights, and which is not to be trained."""
        raise RunError(f"teacher {teacher.name} starts from random weights: add 'teacher.finetune'")

    # ---- data

    def read(self, section: DataSection, seed: int, to_evaluate: bool = False) -> ImageData:
        """Load the images with their targets; see `data.load_data`."""
        from hf_compress.data import load_data

        return load_data(section, seed, to_evaluate)

    def targets(self, items: list[dict[str, Any]], processor: Any) -> dict[str, Tensor]:
        """Return what a batch holds beside the pixels: `labels`, and whatever else the loss needs.

        Args:
            items: of an `ImageSplit`: `view`, a uint8 picture (3, height, width), and `label`; where it is mixed, also
                `partner_label` and `share`, see `data.mixing.Mixing`.
            processor: makes the model's input of the views; what lies in a view goes where it puts it.
        """
        from hf_compress.data.images import class_indices

        return class_indices(items)

    def require_labels(self, loaded: LoadedModel, data: ImageData) -> ImageData:
        """Return data with its targets in the order of a saved model's classes, to measure it.

        Raises:
            RunError: they are none of its classes.
        """
        if not data.labelled:
            raise RunError(
                f"{data.facts['path']} has no labels, by which a model with 'task: {self.name}' is measured: name "
                f"data that has, in a form of docs/{'data' if self.name == 'classification' else self.name}.md"
            )
        aligned = data.aligned(loaded.label_names)
        if aligned is None:
            raise RunError(
                f"the labels of {data.facts['path']} are not those of {loaded.name}: "
                f"{', '.join(loaded.label_names[:5])} ..."
            )
        return aligned

    # ---- outputs, training, distillation

    def forward(self, model: nn.Module, batch: dict[str, Any]) -> Any:
        """Run a model on a batch; its output goes to `outputs` and `loss`."""
        return model(pixel_values=batch["pixel_values"])

    def outputs(self, output: Any) -> dict[str, Tensor]:
        """Return the tensors of a model's output, by name, the images along their first dimension."""
        from hf_compress.ground.outputs import output_tensors

        return output_tensors(output)

    def kept(self, output: Any, batch: dict[str, Any], processor: Any) -> dict[str, Tensor]:
        """Return what is kept of a model's output for a batch, and read by `quality`: by default, all `outputs`."""
        return self.outputs(output)

    def targets_kept(self, labels: Tensor) -> Tensor:
        """Return what is kept of the targets of a batch, the images along the first dimension: by default, all."""
        return labels

    def learn(self, model: nn.Module, batch: dict[str, Any], teacher: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what a student says to a batch; `compare` reads it.

        Args:
            teacher: what its teacher says, see `answer`, in the student's order of classes.
        """
        return self.answer(model, batch["pixel_values"])

    def foreseen(self, student: LoadedModel, teacher: LoadedModel) -> str | None:
        """Say what a student will not learn of its teacher, and what to do; None where it learns all."""
        return None

    def answer(self, model: nn.Module, pixel_values: Any) -> dict[str, Tensor]:
        """Return what a model says to images: what is learnt from a teacher, and compared after a reload."""
        return self.outputs(model(pixel_values=pixel_values))

    @abstractmethod
    def loss(self, output: Any, batch: dict[str, Any]) -> Tensor:
        """Return the loss of a model's output against the targets of a batch, a scalar."""

    @abstractmethod
    def compare(
        self, loss: Loss, student: dict[str, Tensor], teacher: dict[str, Tensor], batch: dict[str, Any]
    ) -> Tensor:
        """Return the distance of the student's outputs from the teacher's, a scalar.

        Args:
            loss: one of the distillation losses, of logits (rows, classes), twice, and labels (rows,) or None.
            student, teacher: see `answer`, in float32.
        """

    def in_order(self, outputs: dict[str, Tensor], order: list[int] | None) -> dict[str, Tensor]:
        """Return a teacher's outputs with its classes in another order; None leaves them as they are."""
        if order is None:
            return outputs
        raise UsageError(f"with 'task: {self.name}', teacher and student must have their classes in one order")

    # ---- measuring

    @abstractmethod
    def quality(self, predictions: Predictions) -> dict[str, float]:
        """Return the metrics by name; one that is not defined for these images is absent."""

    def decide(self, predictions: Predictions) -> dict[str, float]:
        """Return the deciding metric alone, after every epoch."""
        return {self.deciding.name: self.quality(predictions)[self.deciding.name]}

    def in_detail(self, predictions: Predictions) -> dict[str, Any]:
        """Return what the row of a report tells of the quality.

        Returns:
            `quality`; `by_image`, which no report holds: by metric, for each image a number of which the metric is the
            mean; and further parts of a row.
        """
        return {"quality": self.quality(predictions), "by_image": {}}

    def as_targets(self, predictions: Predictions) -> list[Any]:
        """Return a model's answers as `label`s of an `ImageSplit`."""
        raise RunError(f"'task: {self.name}' needs labels, and the data has none: name data with labels")

    def labelled_by(self, teacher: LoadedModel, data: ImageData, predict: Predict) -> ImageData:
        """Return data whose validation and test images have the teacher's answers as targets; none trains on these.

        Raises:
            RunError: it has classes, and names none in the images of a split.
        """
        from hf_compress.data.annotations import classes_of

        found = {
            role: images.with_labels(self.as_targets(predict(teacher, images, whole=self.answers_whole)))
            for role, images in (("validation", data.validation), ("test", data.test))
        }
        for role, images in found.items():
            if self.classes and not any(map(classes_of, images.labels)):
                raise RunError(
                    f"teacher {teacher.name} says nothing of the {role} images, so nothing can be measured on them: "
                    "take pictures of what it knows, or data with labels"
                )
        return replace(data, **found, label_names=teacher.label_names, by_teacher=True)

    def examiner(
        self, data: ImageData, split: str, teacher: LoadedModel | None, predict: Predict
    ) -> Callable[[LoadedModel], dict[str, Any]]:
        """Return what measures a model on a split: it gives what `in_detail` does.

        Where the teacher gave the targets, `quality` is how often a model agrees with it.
        """
        images = data.splits[split]

        def examine(loaded: LoadedModel) -> dict[str, Any]:
            found = self.in_detail(predict(loaded, images))
            if not data.by_teacher:
                return found
            return {
                part: {AGREEMENT: values[self.deciding.name]}
                for part, values in found.items()
                if part in ("quality", "by_image") and self.deciding.name in values
            }

        return examine

    def judged_by(self, by_teacher: bool) -> Metric:
        """Return the metric that decides of what `examiner` measures."""
        return known_metrics()[AGREEMENT] if by_teacher else self.deciding

    def examples(
        self, models: Mapping[str, LoadedModel], images: ImageSplit, by_image: Sequence[float], by_teacher: bool
    ) -> Sheet | None:
        """Return some test pictures with what models say of them, for a figure; by default there is nothing to show.

        Args:
            models: `final model`, and before it the `teacher`, where there is one.
            by_image: the deciding metric of each image for the final model; empty where it is not known.
            by_teacher: whether the labels of the images are what the teacher says.
        """
        return None

    def difference(self, again: LoadedModel, own: LoadedModel, pictures: list[Tensor]) -> str | None:
        """Say in what a reloaded model differs from the one that was saved; None where it does not.

        Args:
            pictures: uint8 (3, height, width).
        """
        import torch

        from hf_compress.data.images import preprocess

        for picture in pictures:
            with torch.inference_mode():
                wanted, found = (
                    self.answer(loaded.model, preprocess(loaded.processor, [picture])) for loaded in (own, again)
                )
            for name, tensor in wanted.items():
                other = found.get(name)
                same = other is not None and other.shape == tensor.shape
                if not same or not (other - tensor).abs().max() <= TOLERANCE * tensor.abs().max():
                    return f"its {name} are others"
        return None


TASKS: Registry[Task] = Registry("task", "hf_compress.tasks")


def register_task(task: T) -> T:
    """Register a task under its name, and return it."""
    return TASKS.register(task.name)(task)


def _task_name(name: str) -> str:
    if name not in TASKS:
        raise PydanticCustomError("literal_error", "unknown task", {"expected": " or ".join(map(repr, TASKS))})
    return name


TaskName = Annotated[str, AfterValidator(_task_name)]
"""The name of a registered task, where pydantic reads one."""


def task_of(report: dict[str, Any]) -> Task:
    """Return the task of a run's report; before there were several it was classification."""
    return TASKS.get(report.get("task", "classification"))


def known_metrics() -> dict[str, Metric]:
    """Return the metrics of all tasks by name, and the agreement with a teacher."""
    found = {metric.name: metric for name in TASKS for metric in TASKS.get(name).metrics}
    return found | {AGREEMENT: Metric(AGREEMENT, "agreement with the teacher", share=True)}
