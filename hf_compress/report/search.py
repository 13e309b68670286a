"""The form of what a report tells of a search: `hf_compress.auto`."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hf_compress.report.schema_rows import Change, Milliseconds, Name, Natural, Score
from hf_compress.tasks.base import known_metrics


class SearchPart(BaseModel):
    """As the parts of `hf_compress.report.schema`."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class SearchPoint(SearchPart):
    """A candidate: what its file has on validation images, and what it costs."""

    name: Name
    what: Name
    trained: bool
    brief: bool = False
    int8: bool
    quality: Score
    lost: Change
    parameters: Natural
    macs: Natural
    bytes: Natural
    effort: Annotated[float, Field(ge=0, le=1e15)]
    latency_ms: Milliseconds = 1.0
    teacher_ms: Milliseconds = 1.0
    front: bool
    winner: bool

    @model_validator(mode="after")
    def _timed_together(self):
        if len({"latency_ms", "teacher_ms"} & self.model_fields_set) == 1:
            raise ValueError("latency_ms and teacher_ms are measured together")
        return self


class SearchRequest(SearchPart):
    wish: dict[Name, float] = Field(min_length=1, max_length=10)
    runtime: Name


class Foretold(SearchPart):
    """How well quality after training was foretold."""

    trained: Natural
    share_left: float
    mean_error: float = Field(0.0, ge=0)
    rank_correlation: Score = 0.0


class SearchFacts(SearchPart):
    """How the model was found, and what else was possible."""

    request: SearchRequest
    options: dict[Name, Any]
    metric: Name
    points: list[SearchPoint] = Field(min_length=1, max_length=10_000)
    failed: dict[Name, Name] = Field({}, max_length=10_000)
    prediction: Foretold
    prediction_of_students: Foretold | None = None

    @model_validator(mode="after")
    def _whole(self):
        if self.metric not in known_metrics():
            raise ValueError(f"no task has the metric '{self.metric}'")
        if sum(point.winner for point in self.points) != 1:
            raise ValueError("one point is the winner")
        if self.points[0].name != "00":
            raise ValueError("the first point is the model as it is, '00'")
        return self
