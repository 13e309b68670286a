"""What a report says, in the words and tables of a card; what was not measured is absent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from hf_compress.hub import origin
from hf_compress.hub.markdown import one_line
from hf_compress.measure.intervals import difference, in_points, in_words
from hf_compress.tasks import known_metrics, task_of

FEW_IMAGES = 20
LOST = 0.05
UNSTEADY = 2
MANY_CLASSES, WORST_CLASSES = 30, 15
NAMED = 5


@dataclass(frozen=True)
class Measure:
    """One line of the tables.

    Attributes:
        heading: what is measured.
        read: takes it from a row of the report; raises KeyError where it was not measured.
        show: writes a value.
        less: what fewer or lower is called (`fewer`, `faster`); None for a quality, which is compared by difference.
        metric: the name of a quality in the report.
    """

    heading: str
    read: Callable[[dict[str, Any]], float]
    show: Callable[[float], str]
    less: str | None = None
    metric: str | None = None

    def of(self, row: dict[str, Any]) -> float | None:
        try:
            return self.read(row)
        except KeyError:
            return None

    def text(self, row: dict[str, Any]) -> str:
        value = self.of(row)
        return "" if value is None else self.show(value)

    def change(self, before: dict[str, Any], after: dict[str, Any]) -> str:
        """Say how `after` compares: a ratio for costs, a difference for qualities, in points with its interval."""
        old, new = self.of(before), self.of(after)
        if old is None or new is None:
            return ""
        if entry := difference(after, self.metric, before["stage"]):
            return in_points(entry)
        if self.less is None:
            return f"{new - old:+.4f}"
        return ratio(old, new, self.less)


def quality_name(key: str) -> str:
    """Return how tables call a quality."""
    known = known_metrics()
    return known[key].words if key in known else one_line(key).replace("_", " ")


def ratio(old: float, new: float, less: str) -> str:
    """Return `4.0x fewer`, `1.2x more`, or `same`."""
    if not old or not new:
        return ""
    more = "slower" if less == "faster" else "more"
    factor, word = (old / new, less) if old >= new else (new / old, more)
    return "same" if f"{factor:.2f}" == "1.00" else f"{factor:.2f}x {word}" if factor < 2 else f"{factor:.1f}x {word}"


def measures(report: dict[str, Any]) -> list[Measure]:
    """Return everything that was measured in a run, in the order of the tables."""
    rows = report["rows"]
    qualities = dict.fromkeys(key for row in rows for key in row["quality"])
    batches = dict.fromkeys(batch for row in rows for batch in row.get("latency", {}))
    found = [
        *(Measure(quality_name(key), _quality(key), _score, metric=key) for key in qualities),
        Measure("calibration error", lambda row: row["reliability"]["expected_calibration_error"], _score),
        Measure("parameters", _cost("parameters"), count, "fewer"),
        Measure("non-zero parameters", _cost("nonzero_parameters"), count, "fewer"),
        Measure("MACs", _cost("macs"), count, "fewer"),
        Measure("size on disk", _cost("bytes"), size, "less"),
        *(
            Measure(f"latency, {batch_name(batch)}, {quantile}", _latency(batch, quantile), _milliseconds, "faster")
            for batch in batches
            for quantile in ("p50", "p95")
        ),
        Measure("peak memory, one image", _cost("peak_memory_bytes"), size, "less"),
    ]
    return [measure for measure in found if any(measure.of(row) is not None for row in rows)]


def comparison(report: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return the before/after table: heading, first model, final model, change."""
    first, *_, last = report["rows"]
    rows = [(m.heading, m.text(first), m.text(last), m.change(first, last)) for m in measures(report)]
    return [row for row in rows if row[2]]


def steps_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the table with one line a stage, and how steps differ from the stage before."""
    left_out = {"calibration error", "peak memory, one image"}
    if all(row["cost"]["nonzero_parameters"] > 0.99 * row["cost"]["parameters"] for row in report["rows"]):
        left_out.add("non-zero parameters")
    shown = [m for m in measures(report) if m.heading not in left_out and not m.heading.endswith("p95")]
    rows = [[row["stage"], what_was_done(row), *(m.text(row) for m in shown)] for row in report["rows"]]
    headings = ["stage", "what was done", *(m.heading for m in shown)]
    for quality in (m for m in shown if m.metric):
        found = [difference(row, quality.metric, before["stage"]) for before, row in pairwise(report["rows"])]
        if any(found):
            headings.append(f"{quality.heading} against the stage before")
            for row, entry in zip(rows, [None, *found], strict=True):
                row.append(in_points(entry) if entry else "")
    return headings, rows


def what_was_done(row: dict[str, Any]) -> str:
    """Sum up the details of a row."""
    details = row.get("details", {})
    if epochs := details.get("epochs"):
        best = f", the best: {details['best_epoch']}" if "best_epoch" in details else ""
        return _number(len(epochs), "epoch") + best
    if layers := details.get("rewritten_layers"):
        off = min(details["logits_error"].values())
        return f"{_number(len(layers), 'layer')} rewritten ({details['rewrite']}), logits off by {off:.1%}"
    if rounds := details.get("rounds"):
        kept = [entry for entry in rounds if entry["kept"]]
        gone = f", sparsity {kept[-1]['sparsity']:.1%}" if kept else ""
        missed = ", not as asked" if "missed" in details else ""
        return f"{_number(len(rounds), 'round')}, {len(kept)} kept{gone}{missed}"
    return ""


def summary(report: dict[str, Any]) -> list[str]:
    """Say in two sentences what the model is, and what was gained and lost."""
    first, *_, last = report["rows"]
    classes = f" for {len(report['labels'])} classes" if report.get("labels") else ""
    task = task_of(report)
    kind = task.noun + (classes if task.classes else "")
    made = f"A {model_name(last)} {kind}, made with hf-compress: {', '.join(step_names(report))}."
    return [made, _against(first, last, report)]


def _against(first: dict[str, Any], last: dict[str, Any], report: dict[str, Any]) -> str:
    by = {measure.heading: measure for measure in measures(report)}
    changes = {heading: by[heading].change(first, last) for heading in ("parameters", "MACs") if heading in by}
    gains = [f"{change} {heading}" for heading, change in changes.items() if change not in ("", "same")]
    sentence = f"Against the {reference(first)} it has {' and '.join(gains) or 'as many parameters'}"
    quality = next((measure for measure in by.values() if measure.less is None), None)
    if quality is None:
        return f"{sentence}."
    instead = f" instead of {quality.text(first)}" if quality.of(first) is not None else ""
    images = _number(test_images(report), "test image")
    entry = difference(last, quality.metric, first["stage"])
    sure = f": {in_words(entry, test_images(report))}" if entry else ""
    return f"{sentence}; its {quality.heading} on {images} is {quality.text(last)}{instead}{sure}."


def step_names(report: dict[str, Any]) -> list[str]:
    return [row["stage"].partition(" ")[2] for row in report["rows"] if row["stage"][0].isdigit()]


def reference(row: dict[str, Any]) -> str:
    """Name the model that the final one is compared with."""
    return f"teacher {model_name(row)}" if row["stage"] == "teacher" else f"{model_name(row)} before"


def model_name(row: dict[str, Any]) -> str:
    """Return a model's name; of a folder, its last part."""
    return short_name(row["model"])


def short_name(name: str) -> str:
    return Path(name).name if name.startswith(("/", ".", "~")) else name


def data_rows(report: dict[str, Any]) -> list[tuple[str, int, str, int | str, int | str]]:
    """Return one row a split: name, images, origin, unlabelled, skipped as corrupt; a stream is not counted."""

    def count(part: dict[str, Any], key: str) -> int | str:
        return "not counted" if part[key] is None else part[key]

    return [
        (name, part["images"], part["from"], count(part, "unlabelled_images"), count(part, "corrupt_images_skipped"))
        for name, part in report["data"]["splits"].items()
    ]


def class_table(report: dict[str, Any]) -> list[tuple[str, int | str, int, str, str]]:
    """Return one row a class: name, training images, test images, recall of the first and of the final model.

    Of more than 30 classes, the 15 with the lowest recall.
    """
    first, *_, last = report["rows"]
    if "classes" not in last:
        return []
    trained = report["data"]["splits"]["train"]["images_by_class"]
    before = recall(first["classes"]) if "classes" in first else [None] * len(report["labels"])
    after = recall(last["classes"])
    order = range(len(after))
    if len(after) > MANY_CLASSES:
        order = sorted((i for i in order if after[i] is not None), key=after.__getitem__)[:WORST_CLASSES]
    return [
        (
            report["labels"][i],
            trained.get(report["labels"][i], ""),
            last["classes"]["images"][i],
            *("" if value is None else _score(value) for value in (before[i], after[i])),
        )
        for i in order
    ]


def environment_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in report["environment"].items() if value is not None]


def test_images(report: dict[str, Any]) -> int:
    part = report["data"]["splits"]["test"]
    return part["images"] - part["unlabelled_images"] or part["images"]


def device(report: dict[str, Any]) -> str:
    """Return where latency was measured."""
    threads = report["measure"].get("threads") or report["environment"]["threads"]
    return f"{report['environment']['processor']} with {_number(threads, 'thread')}"


def sources(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the models whose weights or answers went into this one, with their role."""
    return [source | {"role": role} for role, source in origin.sources(report)]


def limits(report: dict[str, Any]) -> list[str]:
    """Return the sentences that a reader must know, each from a fact of the report."""
    rules = (
        _missed,
        _over_budget,
        _small_test,
        _intervals,
        _few_images,
        _not_used,
        _leaks,
        _conflicts,
        _lost,
        _overlap,
        _latency_device,
    )
    return [sentence for rule in rules for sentence in rule(report)]


def _missed(report: dict[str, Any]) -> Iterator[str]:
    for row in report["rows"]:
        if missed := row.get("details", {}).get("missed"):
            what = "MACs" if missed["what"] == "macs" else missed["what"]
            yield (
                f"Step {row['stage']} was to remove {missed['asked']:.1%} of the {what} and removed "
                f"{missed['reached']:.1%}: {missed['reason']}."
            )


def _over_budget(report: dict[str, Any]) -> Iterator[str]:
    last = report["rows"][-1]
    latency = {"latency_ms": last["latency"]["batch_1"]["p50_ms"]} if "latency" in last else {}
    measured = last["cost"] | latency
    for key, limit in report.get("selection", {}).get("budget", {}).items():
        if measured.get(key, 0) > limit:
            yield f"The student was selected for a budget of {limit:g} {key}; the final model has {measured[key]:g}."


def _small_test(report: dict[str, Any]) -> Iterator[str]:
    images = test_images(report)
    yield f"The test set has {_number(images, 'image')}: one image is worth {100 / images:.2g} points of accuracy."


def _intervals(report: dict[str, Any]) -> Iterator[str]:
    if any(row.get("differences") for row in report["rows"]):
        yield (
            "The range behind a difference is its 95 % interval, by a paired bootstrap of the test images: it says "
            "nothing of another training, nor of images of another kind. ROC AUC has none."
        )


def _few_images(report: dict[str, Any]) -> Iterator[str]:
    classes = report["rows"][-1].get("classes")
    for split, counts in (
        ("test", classes and dict(zip(report["labels"], classes["images"], strict=True))),
        ("training", report["data"]["splits"]["train"]["images_by_class"]),
    ):
        few = sorted((n, name) for name, n in (counts or {}).items() if n < FEW_IMAGES)
        if few:
            named = _listed([f"{name} ({n})" for n, name in few])
            yield f"{_number(len(few), 'class', 'classes')} with fewer than {FEW_IMAGES} {split} images: {named}."


def _not_used(report: dict[str, Any]) -> Iterator[str]:
    for entry in report["data"].get("left_out", []):
        yield f"Left out of the data: {entry['reason']} ({entry['count']:,}, such as {entry['example']})."


def _leaks(report: dict[str, Any]) -> Iterator[str]:
    streamed = report["data"]["splits"]["train"]["corrupt_images_skipped"] is None
    for leak in report["data"].get("leaks", []):
        first, second = leak["splits"]
        where = "a sample of train" if streamed and first == "train" else first
        flattered = "the figures" if second == "test" else "the choice of the best epoch"
        result = f"{leak['dropped']:,} dropped from {where}" if leak["dropped"] else f"this flatters {flattered}"
        found = f"{leak['images']:,}, such as {leak['example']}"
        yield f"{second.capitalize()} images that are in {where}, too: {found}; {result}."


def _conflicts(report: dict[str, Any]) -> Iterator[str]:
    for conflict in report["data"].get("conflicting_labels", []):
        found = f"{conflict['images']:,}, such as {conflict['example']} ({', '.join(conflict['labels'])})"
        yield f"Images in {conflict['split']} that are stored more than once with different labels: {found}."


def _lost(report: dict[str, Any]) -> Iterator[str]:
    first, *_, last = report["rows"]
    if "classes" not in first or "classes" not in last or first["stage"] != "teacher":
        return
    before, after = recall(first["classes"]), recall(last["classes"])
    lost = [
        (after[i] - before[i], name)
        for i, name in enumerate(report["labels"])
        if before[i] is not None and after[i] - before[i] <= -LOST
    ]
    if lost:
        named = _listed([f"{name} ({100 * change:+.1f} points)" for change, name in sorted(lost)])
        yield f"Recall fell against the teacher in {_number(len(lost), 'class', 'classes')}: {named}."


def _overlap(report: dict[str, Any]) -> Iterator[str]:
    for source in sources(report):
        yield (
            f"Nothing is known here about the images that the {source['role']} {short_name(source['id'])} was trained "
            "on before: test images may be among them, which would flatter every figure."
        )


def _latency_device(report: dict[str, Any]) -> Iterator[str]:
    if any("latency" in row for row in report["rows"]):
        yield (
            f"Latency was measured on {device(report)} in PyTorch; another device, runtime or batch size gives "
            "other ratios."
        )
    timed = [entry for row in report["rows"] for entry in row.get("latency", {}).values()]
    spread = max((entry["p95_ms"] / entry["p50_ms"] for entry in timed), default=1)
    if spread > UNSTEADY:
        yield (
            f"Latency was unsteady, its 95th percentile up to {spread:.1f} times the median: the ratios of latency "
            "are unsure."
        )


def recall(classes: dict[str, list]) -> list[float | None]:
    """Return the recall of every class; None where it has no test images."""
    return [c / n if n else None for c, n in zip(classes["correct"], classes["images"], strict=True)]


def count(value: float) -> str:
    """Write a large number in thousands, millions or billions."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.2f} {unit}"
    return f"{value:.0f}"


def size(value: float) -> str:
    return f"{value / 1e6:.2f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"


def _number(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _listed(names: list[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _quality(key: str) -> Callable[[dict[str, Any]], float]:
    return lambda row: row["quality"][key]


def _cost(key: str) -> Callable[[dict[str, Any]], float]:
    return lambda row: row["cost"][key]


def _latency(batch: str, quantile: str) -> Callable[[dict[str, Any]], float]:
    return lambda row: row["latency"][batch][f"{quantile}_ms"]


def batch_name(key: str) -> str:
    """Return `batch_8` as words."""
    return "one image" if key == "batch_1" else key.replace("_", " of ")


def _score(value: float) -> str:
    return f"{value:.4f}"


def _milliseconds(value: float) -> str:
    return f"{value:.2f} ms"
