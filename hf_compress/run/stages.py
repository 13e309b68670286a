"""The rows of the report: teacher, student before, and after every step, measured when all of them are there."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

from hf_compress.data.images import example_input
from hf_compress.device.timing import Others
from hf_compress.ground.units import Units
from hf_compress.measure.cost import cost
from hf_compress.measure.intervals import ByImage, differences
from hf_compress.measure.latency import measure_latency, second_batch
from hf_compress.models.load import LoadedModel
from hf_compress.report.limits import speed_remarks
from hf_compress.report.measures import CONTROL
from hf_compress.sections.measure import MeasureSection
from hf_compress.sections.models import TEACHER


class Stages:
    """Takes models as they come, and measures them when all are there: until then nobody sees a test image.

    Args:
        measure: section of the recipe.
        quality: gives `quality`, `by_image` and the details of a row: see `Task.examiner`.
        units: where measurements are kept.

    Attributes:
        rows: one a model.
        models: copies of the models, for the latency, which is measured when all are there.
        by_image: the metrics of each test image, by stage.
        control: the row of the control, where there is one.
        remarks: sentences about the run.
        other_cores: how many cores other processes took while latency was measured.
    """

    def __init__(self, measure: MeasureSection, quality: Callable[[LoadedModel], dict[str, Any]], units: Units):
        self.measure = measure
        self.quality = quality
        self.units = units
        self.rows: list[dict[str, Any]] = []
        self.models: list[LoadedModel] = []
        self.by_image: dict[str, ByImage] = {}
        self.control: dict[str, Any] | None = None
        self._control_model: LoadedModel | None = None
        self.remarks: list[str] = []
        self.other_cores = 0.0

    def add(self, stage: str, loaded: LoadedModel, details: dict[str, Any] | None = None) -> None:
        """Take a model as it is now; its row says nothing of quality and cost before `measure_all`."""
        self.rows.append(_named(stage, loaded, details))
        self.models.append(_copied(loaded))

    def add_control(self, loaded: LoadedModel, details: dict[str, Any]) -> None:
        """Take the control, which is no stage."""
        self.control = _named(CONTROL, loaded, details)
        self._control_model = _copied(loaded)

    @property
    def teacher(self) -> dict[str, LoadedModel]:
        """The teacher by its name; nothing where there is none."""
        return {TEACHER: self.models[0]} if self.rows[0]["stage"] == TEACHER else {}

    def measure_all(self) -> None:
        """Measure quality and cost of all models on the test images.

        Each is compared with the first one, and the one before it where the stage is a step; the control with the
        first, and the last with the control.
        """
        for number, loaded in enumerate(self.models):
            stage, before = self.rows[number]["stage"], list(self.by_image)
            others = dict.fromkeys(before[:1] + (before[-1:] if stage[0].isdigit() else []))
            self.rows[number], self.by_image[stage] = self._measured(self.rows[number], loaded, list(others))
        if self.control is not None:
            first, *_, last = self.by_image
            self.control, by_image = self._measured(self.control, self._control_model, [first])
            found = differences(self.by_image[last], {CONTROL: by_image})
            self.rows[-1]["differences"] = self.rows[-1].get("differences", []) + found

    def _measured(self, row: dict[str, Any], loaded: LoadedModel, others: list[str]) -> tuple[dict[str, Any], ByImage]:
        """Return a row with what was measured, compared with other stages, and the metrics of each test image."""
        image = example_input(loaded.processor)
        measured = self.units.value(
            f"measure {row['stage']}", lambda: {**self.quality(loaded), "cost": cost(loaded.model, image)}
        )
        by_image = measured.pop("by_image", {})
        found = differences(by_image, {name: self.by_image[name] for name in others})
        return row | measured | ({"differences": found} if found else {}), by_image

    def add_teacher(self, teacher: LoadedModel, details: list[dict[str, Any] | None]) -> None:
        """Take the teacher; an ensemble as a whole, then its members. `details` has an entry for each of these."""
        if len(details) == 1:
            return self.add("teacher", teacher, details[0])
        self.add("teacher", teacher)
        for number, (member, training) in enumerate(zip(teacher.members, details, strict=True), start=1):
            self.add(f"teacher {number}", member, training)

    def add_latency(self) -> None:
        """Time all models in turn, with each runtime of the recipe."""
        measured = self.units.value("measure latency", self._time, alone=True)
        for row, found in zip(self.rows, measured["rows"], strict=True):
            row |= found
        self.remarks += measured["remarks"] + speed_remarks(self.rows)
        self.other_cores = measured.get("other_cores", 0.0)

    @property
    def second_batch(self) -> int:
        """How many images all models are timed with, beside one."""
        return second_batch(self.measure, _inputs(self.models)[1])

    def _time(self) -> dict[str, Any]:
        """Return what is added to each row, and remarks; an ensemble is timed in PyTorch only."""
        others, sizes = Others(), sorted({1, self.second_batch})
        options = (sizes, self.measure.repeats, self.measure.threads)
        timed = measure_latency(*_inputs(self.models), *options, against=self.rows[0]["stage"])
        rows: list[dict[str, Any]] = [{"latency": took} for took in timed]
        single = [index for index, loaded in enumerate(self.models) if len(loaded.members) == 1]
        remarks = []
        for runtime in dict.fromkeys(name for name in self.measure.runtimes if name != "eager"):
            try:
                models = _inputs([self.models[index] for index in single])
                found = measure_latency(*models, *options, runtime, self.rows[single[0]]["stage"])
            except Exception as error:  # compilers raise anything; a finished training is not lost for that
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                remarks.append(f"latency with {runtime} could not be measured: {reason}")
                continue
            for index, latency in zip(single, found, strict=True):
                rows[index].setdefault("runtimes", {})[runtime] = latency
        return {"rows": rows, "remarks": remarks, "other_cores": round(others.cores, 2)}


def _inputs(models: list[LoadedModel]) -> tuple[list, list]:
    """Return the models, and one input for each."""
    return [loaded.model for loaded in models], [example_input(loaded.processor) for loaded in models]


def _named(stage: str, loaded: LoadedModel, details: dict[str, Any] | None) -> dict[str, Any]:
    return {"stage": stage, "model": loaded.name, **({"details": details} if details else {})}


def _copied(loaded: LoadedModel) -> LoadedModel:
    return dataclasses.replace(loaded, model=copy.deepcopy(loaded.model))
