"""The form of the rows of `report.json`: of stages and of deployed files."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Natural = Annotated[int, Field(ge=0, le=10**15)]
Positive = Annotated[int, Field(ge=1, le=10**15)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Score = Annotated[float, Field(ge=-1, le=1)]
Change = Annotated[float, Field(ge=-2, le=2)]
Milliseconds = Annotated[float, Field(gt=0, le=1e12)]
Times = Annotated[float, Field(gt=0, le=1e12)]
Text = Annotated[str, Field(max_length=4096)]
Name = Annotated[str, Field(min_length=1, max_length=4096)]
Batch = Annotated[str, Field(pattern=r"^batch_[0-9]{1,9}$")]
Pair = Field(min_length=2, max_length=2)


class ReportPart(BaseModel):
    """A part of the report: no value becomes another type, no number is infinite; keys may be added.

    What was not measured is absent, not null: defaults are not checked, and nobody reads them.
    """

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Scored(ReportPart):
    """A part in which the values of any metric, whose names have a prefix there, are scores."""

    prefix: ClassVar[str]

    @model_validator(mode="after")
    def _metrics_are_scores(self):
        for name, value in self.model_extra.items():
            if name.startswith(self.prefix) and not (type(value) in (int, float) and abs(value) <= 1):
                raise ValueError(f"'{name}' is no score")
        return self


class Speedup(ReportPart):
    """How many times as fast a median pass is as that of `against`, with its 95 % interval."""

    against: Name
    ratio: Times
    low: Times
    high: Times


class Latency(ReportPart):
    p50_ms: Milliseconds
    p95_ms: Milliseconds
    noise: Annotated[float, Field(ge=0)] = 0.0
    speedup: Speedup | None = None


class Cost(ReportPart):
    parameters: Positive
    nonzero_parameters: Natural
    macs: Natural = 0
    bytes: Natural = 0
    peak_memory_bytes: Natural = 0


class Classes(ReportPart):
    """Test images by class; `confused` holds [true class, predicted class, images]."""

    images: list[Natural]
    correct: list[Natural]
    confused: list[Annotated[list[Natural], Field(min_length=3, max_length=3)]]


class Reliability(ReportPart):
    """Calibration; a bin is [mean confidence, accuracy, images]."""

    expected_calibration_error: Fraction
    bins: list[Annotated[list[Annotated[float, Field(ge=0, le=1e15)]], Field(min_length=3, max_length=3)]] = Field(
        min_length=1, max_length=1000
    )


class PruningBudget(ReportPart):
    """What a pruning round was to spend."""

    scope: Name = ""
    per: Name = ""
    target: dict[Name, Fraction] = Field({}, max_length=1)


class Epoch(Scored):
    """What a training had come to; its loss is the mean of the epoch's steps."""

    prefix = "validation_"
    epoch: Positive = 1
    training_loss: float = 0.0


class Began(Scored):
    """What a training began with."""

    prefix = "validation_"


class Training(ReportPart):
    """Where something was trained, one entry an epoch; the best is 0 where what it began with was better than all."""

    began: Began = Field(default_factory=Began)
    epochs: list[Epoch] = []
    best_epoch: Natural = 1

    @model_validator(mode="after")
    def _best_is_one_of_them(self):
        if self.epochs and self.best_epoch > len(self.epochs):
            raise ValueError(f"best_epoch {self.best_epoch} is none of the {len(self.epochs)} epochs")
        return self


class Round(Scored, Training):
    """A pruning round: which fractions were gone; one that diverged has no accuracy."""

    prefix = "validation_"
    kept: bool
    sparsity: Score
    parameters: Score
    validation_accuracy: Fraction = 0.0
    latency: Annotated[float, Field(le=1)] = 0.0
    importance: Name = ""
    budget: PruningBudget = Field(default_factory=PruningBudget)
    output_error_before: Annotated[float, Field(ge=0)] = 0.0
    output_error_after: Annotated[float, Field(ge=0)] = 0.0


class Missed(ReportPart):
    """What a step removed beside what it was asked for, as fractions of the model before."""

    what: Name
    asked: Fraction
    reached: Score
    reason: Text


class TimeBudget(ReportPart):
    """What a training did in the minutes that it had."""

    minutes: Annotated[float, Field(gt=0)]
    steps: Positive
    epochs: Annotated[float, Field(gt=0)]


class SimulatedInt8(ReportPart):
    """The deciding metric on validation images in floats, and with int8 simulated before and after the training."""

    layers: Positive
    in_floats: float
    before: float
    after: float


class Details(Scored, Training):
    """What a step recorded: anything, but what cards and figures show has its form."""

    prefix = "unpruned_validation_"
    trained_layers: Literal["head", "all"] = "all"
    time_budget: TimeBudget | None = None
    rounds: list[Round] = []
    unpruned_validation_accuracy: Fraction = 0.0
    rewritten_layers: dict[Name, dict[str, Any]] = {}
    rewrite: Name = ""
    logits_error: dict[Name, Annotated[float, Field(ge=0)]] = {}
    missed: Missed | None = None
    simulated_int8: SimulatedInt8 | None = None
    steps: dict[Name, "Details"] = {}

    @model_validator(mode="after")
    def _whole(self):
        needed = {"rewrite", "logits_error"} if self.rewritten_layers else set()
        if lacks := sorted(needed - self.model_fields_set):
            raise ValueError(f"rewritten_layers need '{lacks[0]}' beside them")
        if self.rewritten_layers and not self.logits_error:
            raise ValueError("logits_error is empty")
        return self


class Difference(ReportPart):
    """A paired difference to another stage on the same test images, with its interval."""

    metric: Name
    against: Name
    difference: Change
    low: Change
    high: Change


class AnyRow(ReportPart):
    """What was measured of a model, or of its file."""

    stage: Name
    model: Name
    quality: dict[Name, Score] = Field(max_length=100)
    latency: dict[Batch, Latency] = {}
    differences: list[Difference] = []


class Row(AnyRow):
    """A stage of the run."""

    cost: Cost
    classes: Classes = None
    class_iou: list[Fraction | None] = None
    class_ap: list[Fraction | None] = None
    reliability: Reliability = None
    runtimes: dict[Name, dict[Batch, Latency]] = {}
    details: Details = Field(default_factory=Details)


class FileCost(ReportPart):
    bytes: Natural


class DeployedFile(AnyRow):
    """The final model in a file for another runtime, and how far what it says there is from PyTorch."""

    runtime: Name
    precision: Literal["float32", "int8"]
    file: Name
    cost: FileCost
    eager_latency: dict[Batch, Latency]
    other_cores: Annotated[float, Field(ge=0)] = 0.0
    threads: Positive = 1
    processor: Text = ""
    int8_error: Annotated[float, Field(ge=0)] = 0.0
    float_layers: list[Name] = Field([], max_length=100_000)
    script: Name = ""
    no_script: Text = ""
    max_difference: dict[Name, Annotated[float, Field(ge=0)]]
    top1_agreement: Fraction = 1.0
