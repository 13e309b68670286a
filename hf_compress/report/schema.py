"""The form of `report.json`: written by a run through it, and checked whenever one is read."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from hf_compress.report.measures import CONTROL
from hf_compress.report.schema_rows import (
    Classes,
    DeployedFile,
    Fraction,
    Milliseconds,
    Name,
    Natural,
    Pair,
    Positive,
    ReportPart,
    Row,
    Text,
)
from hf_compress.report.search import SearchFacts
from hf_compress.tasks.base import TASKS, TaskName

MOST_NAMES = 1_000_000


class LayerRow(ReportPart):
    """Output channels, and fraction of zeros, before and after; null where a model lacks the layer."""

    width: list[Positive | None] = Pair
    sparsity: list[Fraction | None] = Pair

    @model_validator(mode="after")
    def _both_or_none(self):
        if any((width is None) != (zeros is None) for width, zeros in zip(self.width, self.sparsity, strict=True)):
            raise ValueError("width and sparsity are null together")
        return self


class OriginRow(ReportPart):
    id: Name
    source: Literal["hub", "folder", "file", "architecture"]
    revision: Text | None = None
    license: Text | None = None
    base_model: Text | None = None


Origins = Annotated[
    list[OriginRow], BeforeValidator(lambda value: value if isinstance(value, list) else [value] * (value is not None))
]


class Winner(ReportPart):
    model: Name
    width: Annotated[float, Field(gt=0)]
    pretrained: Name = ""


class CandidateRow(Winner):
    parameters: Natural = 0
    macs: Natural = 0
    bytes: Natural = 0
    latency_ms: Milliseconds = 1.0
    probe_accuracies: list[Fraction] = Field([])


class Selection(ReportPart):
    """How `student: auto` was decided; every candidate that was probed has the costs that the budget bounds."""

    budget: dict[Literal["latency_ms", "macs", "parameters", "bytes"], Annotated[float, Field(gt=0)]] = Field(
        min_length=1
    )
    candidates: list[CandidateRow] = Field(max_length=10_000)
    winner: Winner

    @model_validator(mode="after")
    def _comparable(self):
        for number, candidate in enumerate(self.candidates):
            lacks = sorted(self.budget.keys() - candidate.model_fields_set)
            if candidate.probe_accuracies and lacks:
                raise ValueError(f"candidate {number} was probed, but has no '{lacks[0]}'")
        return self


class Split(ReportPart):
    """Where the images of a split come from, and how many there are; null where a stream is not counted."""

    images: Natural
    origin: Text = Field(alias="from")
    unlabelled_images: Natural | None
    corrupt_images_skipped: Natural | None
    images_by_class: dict[Text, Natural] = Field(max_length=MOST_NAMES)

    @model_validator(mode="after")
    def _parts_of_it(self):
        if (self.unlabelled_images or 0) > self.images:
            raise ValueError("there are more unlabelled_images than images")
        return self


class LeftOutRow(ReportPart):
    """Files that are not used, by reason."""

    reason: Text
    count: Natural
    example: Text


class Leak(ReportPart):
    """Pictures of two splits: `images` of the second are in the first, too, from which so many were dropped."""

    splits: list[Name] = Pair
    images: Natural
    dropped: Natural
    example: Text


class Conflict(ReportPart):
    """Pictures of a split that are stored more than once, with different labels; `labels` are those of the example."""

    split: Name
    images: Natural
    example: Text
    labels: list[Text]


class Data(ReportPart):
    path: Name
    revision: Text | None
    unlabelled_revisions: list[Text | None] = Field([])
    splits: dict[Name, Split]
    left_out: list[LeftOutRow] = Field([])
    leaks: list[Leak] = Field([])
    conflicting_labels: list[Conflict] = Field([])

    @field_validator("splits")
    @classmethod
    def _trained_and_tested(cls, splits: dict[str, Split]) -> dict[str, Split]:
        if lacks := [name for name in ("train", "test") if name not in splits]:
            raise ValueError(f"there is no split '{lacks[0]}'")
        if splits["test"].images == 0 or splits["test"].unlabelled_images is None:
            raise ValueError("the split 'test' has no images that were counted")
        return splits


class Measured(ReportPart):
    threads: Positive | None = None
    other_cores: Annotated[float, Field(ge=0)] = 0.0


class Environment(ReportPart):
    """Versions and hardware, each a single value."""

    processor: Name
    threads: Positive

    @model_validator(mode="after")
    def _single_values(self):
        for name, value in self.model_extra.items():
            if not isinstance(value, str | int | float | None) or len(str(value)) > 4096:
                raise ValueError(f"'{name}' is no single value")
        return self


class Report(ReportPart):
    """The report of a run."""

    created: Text
    task: TaskName = "classification"
    seconds: Annotated[float, Field(ge=0)]
    rows: list[Row] = Field(min_length=2, max_length=10_000)
    control: Row = None
    remarks: list[Text] = Field([])
    layers: dict[Name, LayerRow] = Field({}, max_length=100_000)
    teacher: Origins = Field([])
    assistants: Origins = Field([])
    student: Origins = Field([])
    selection: Selection | None = None
    search: SearchFacts | None = None
    data: Data
    labels: list[Text] = Field([], max_length=MOST_NAMES)
    loads_with: Literal["transformers", "generated_code", "custom_code", "hf_compress"]
    seed: Natural
    seeds: dict[Name, Any] = Field({})
    measure: Measured
    environment: Environment
    deployed: list[DeployedFile] = Field([], max_length=10_000)
    not_deployed: list[Text] = Field([])
    not_run: list[Text] = Field([])

    @field_validator("created")
    @classmethod
    def _a_time(cls, value: str) -> str:
        datetime.fromisoformat(value)
        return value

    @model_validator(mode="after")
    def _fits_together(self):
        if not any(row.quality for row in self.rows):
            raise ValueError("no row has a quality")
        batches = next((row.latency.keys() for row in self.rows if row.latency), None)
        start = f"unpruned_validation_{TASKS.get(self.task).deciding.name}"
        rows = {f"rows.{number}": row for number, row in enumerate(self.rows)}
        for key, row in (rows | ({"control": self.control} if self.control else {})).items():
            if row.details.rounds and start not in row.details.model_fields_set:
                raise ValueError(f"'{key}.details': rounds need '{start}' beside them")
            if row.latency and row.latency.keys() != batches:
                raise ValueError(f"'{key}.latency' has other batch sizes than the rows before it")
            for entry in row.differences:
                if entry.against == CONTROL and not (self.control and entry.metric in self.control.quality):
                    raise ValueError(f"'{key}.differences' name a control, which has no '{entry.metric}'")
            if row.classes is not None:
                _refuse_other_classes(f"{key}.classes", row.classes, len(self.labels))
            if row.class_iou is not None and len(row.class_iou) != len(self.labels):
                raise ValueError(f"'{key}.class_iou' does not count the {len(self.labels)} labels")
            if row.class_ap is not None and len(row.class_ap) > len(self.labels):
                raise ValueError(f"'{key}.class_ap' names a class beyond the {len(self.labels)} labels")
        return self


class StudyReport(ReportPart):
    """The report of a study, which is only written: its runs have their own."""

    kind: Literal["study"]
    rows: list[dict[str, Any]] = Field(min_length=1)
    runs: list[dict[str, Any]]
    data: Data
    environment: Environment


def _refuse_other_classes(key: str, classes: Classes, labels: int) -> None:
    counted = {len(classes.images), len(classes.correct)}
    if counted != {labels} or not labels:
        raise ValueError(f"'{key}' does not count the images of each of the {labels} labels")
    if any(correct > images for correct, images in zip(classes.correct, classes.images, strict=True)):
        raise ValueError(f"'{key}' has more correct than images")
    if any(index >= labels for true, predicted, _ in classes.confused for index in (true, predicted)):
        raise ValueError(f"'{key}.confused' names a class beyond the {labels} labels")
