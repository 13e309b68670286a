"""Which other architectures compete with what becomes of the model itself, and their short training for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any

from huggingface_hub.constants import HF_HUB_OFFLINE

from hf_compress.auto.judging import STUDENT_RATE, Bench, Point
from hf_compress.auto.request import Request
from hf_compress.auto.space import Choice, Named, Options
from hf_compress.data.images import input_size
from hf_compress.ground import processes
from hf_compress.models.load import LoadedModel
from hf_compress.models.students import build_student, find_checkpoint
from hf_compress.run.selection.candidates import Blueprint, Candidate
from hf_compress.run.selection.checkpoints import begin_with_checkpoints, has_checkpoint
from hf_compress.run.selection.fitting import fit_to_budget
from hf_compress.sections.models import AUTO, StudentSection
from hf_compress.tasks.classification import CLASSIFICATION

MOST = 4
SHARE = 0.15  # of the minutes, for all of them together
IMAGES = 2000  # that each of them sees, about: a whole number of epochs


def competing(request: Request, bench: Bench, options: Options, teacher: Point, log) -> list[Choice]:
    """Return the students that compete, found once: those that the space names, or registered ones.

    These begin with a checkpoint; the widest within the limits of each architecture come first, and that is known of
    models without training: counted, and timed in the runtime.

    Raises:
        UsageError: one that the space names cannot be had.
    """

    def found() -> list[Any]:
        if request.space.students is None:
            return [list(named) for named in _registered(request, bench, options, teacher, log)]
        return [list(_named(section, bench, log)) for section in request.space.students]

    students = bench.folder.units.value("students", found)
    named = [tuple((key, value) for key, value in each) for each in students]
    return [replace(options.whole, int8=int8, student=each) for each in named for int8 in options.int8]


def short_training(request: Request, bench: Bench, students: int) -> dict[str, Any]:
    """Return the options of the training by which students are compared: as many images for all, in bounded time."""
    images = len(bench.prepared.data.training)
    minutes = float(f"{SHARE * request.minutes / students:.2g}")
    return {"learning_rate": STUDENT_RATE, "epochs": ceil(IMAGES / images), "minutes": minutes}


def _named(section: StudentSection, bench: Bench, log: Callable[[str], None]) -> Named:
    prepared, task = bench.prepared, bench.task
    if section.pretrained == AUTO:
        labels = prepared.data.label_names
        checkpoint, sentence = processes.on_main(partial(find_checkpoint, section, labels, task))
        log(sentence)
        section = section.model_copy(update={"pretrained": checkpoint})
    return _pinned(section, build_student(section, prepared.data.label_names, prepared.teacher, task))


def _registered(request: Request, bench: Bench, options: Options, teacher: Point, log) -> Iterator[Named]:
    if bench.task is not CLASSIFICATION:
        return
    side, int8 = input_size(bench.prepared.teacher.processor)[0], max(options.int8)
    blueprint = Blueprint(bench.prepared.data.label_names, side)
    candidates = blueprint.candidates(partial(has_checkpoint, offline=HF_HUB_OFFLINE))
    limits = request.wish.limits(teacher.teacher_ms)
    limits.pop("peak_memory_bytes", None)
    if "bytes" in limits and int8:
        limits["bytes"] *= 4

    def times(asked: list[Candidate]) -> list[float]:
        return processes.on_main(lambda: [bench.time_untrained(blueprint.build(each), int8) for each in asked])

    for candidate in begin_with_checkpoints(fit_to_budget(candidates, limits, times), MOST, blueprint, log):
        section = StudentSection(**candidate.name, image_size=side)
        yield _pinned(section, blueprint.build(candidate))


def _pinned(section: StudentSection, built: LoadedModel) -> Named:
    values = section.model_dump(exclude_defaults=True) | ({"revision": built.commit} if built.commit else {})
    return tuple(values.items())
