"""What a report says, in the words and tables of a card; what was not measured is absent."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from hf_compress.measure.intervals import difference, in_words, with_range
from hf_compress.models import origin
from hf_compress.report.deployed import recommendation
from hf_compress.report.measures import CONTROL, Measure, control_of, four_digits, measures, quality_name
from hf_compress.tasks import task_of

MANY_CLASSES, WORST_CLASSES = 30, 15
BY_CLASS = {"classes": "recall", "class_iou": "IoU", "class_ap": "AP"}  # what a row tells of each class


def comparison(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the before/after table.

    Its columns are what is measured, the first model and the final one in PyTorch, the change, and each deployed file,
    with its change from the first model.
    """
    (first, *_, last), files = report["rows"], report.get("deployed", [])
    where = ", PyTorch" if files else ""
    headings = ["", f"{reference(first)}{where}", f"this model{where}", "change", *(row["stage"] for row in files)]
    rows = [
        [
            m.heading,
            m.text(first),
            m.text(last),
            m.change(first, last),
            *(_with_change(m, first, row) for row in files),
        ]
        for m in measures(report)
    ]
    return headings, [row for row in rows if row[2]]


def _with_change(measure: Measure, first: dict[str, Any], row: dict[str, Any]) -> str:
    change = measure.change(first, row)
    return f"{measure.text(row)}, {change}" if change else measure.text(row)


def steps_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the table with one line a stage, and how steps differ from the stage before.

    Below them stand the control, and the deployed files, which differ from the last stage.
    """
    stages, others = report["rows"], [*control_of(report), *report.get("deployed", [])]
    left_out = {"calibration error", "peak memory, one image"}
    if all(row["cost"]["nonzero_parameters"] > 0.99 * row["cost"]["parameters"] for row in report["rows"]):
        left_out.add("non-zero parameters")
    shown = [m for m in measures(report) if m.heading not in left_out and not m.heading.endswith("p95")]
    rows = [[row["stage"], what_was_done(row), *(m.text(row) for m in shown)] for row in (*stages, *others)]
    headings = ["stage", "what was done", *(m.heading for m in shown)]
    for quality in (m for m in shown if m.metric):
        pairs = [*pairwise(stages), *((stages[-1], other) for other in others)]
        found = [difference(row, quality.metric, before["stage"]) for before, row in pairs]
        if any(found):
            headings.append(f"{quality.heading} against the stage before")
            for row, entry in zip(rows, [None, *found], strict=True):
                row.append(with_range(entry) if entry else "")
    return headings, rows


def _best(epoch: int) -> str:
    return f", the best: {epoch}" if epoch else ", all worse than before: it stays as it was"


def what_was_done(row: dict[str, Any]) -> str:
    """Sum up the details of a row."""
    if row["stage"] == CONTROL:
        return "the same student and steps, from the labels alone"
    if "file" in row:
        floats = row.get("float_layers", [])
        kept = f", {number(len(floats), 'layer')} in floats" if floats else ""
        return f"{row['file']}, run by {row['runtime']}{kept}"
    details = row.get("details", {})
    if details.get("trained_layers") == "head":
        return "the head alone, solved for: no worse than with all layers trained"
    if epochs := details.get("epochs"):
        best = _best(details["best_epoch"]) if "best_epoch" in details else ""
        budget = details.get("time_budget")
        made = f"{budget['epochs']:.3g} epochs within {budget['minutes']:g} minutes" if budget else ""
        than = ", better than the head alone" if "head_alone" in details else ""
        return (made or number(len(epochs), "epoch")) + best + than + _in_int8(details)
    if copy := details.get("copy_of_the_teacher"):
        kept = f"copy of the teacher, width {copy['width']:g}, depth {copy['depth']:g}"
        return f"{kept}: outputs off by {copy['output_error']:.1%} of their variance"
    if layers := details.get("rewritten_layers"):
        off = min(details["logits_error"].values())
        return f"{number(len(layers), 'layer')} rewritten ({details['rewrite']}), logits off by {off:.1%}"
    if rounds := details.get("rounds"):
        kept = [entry for entry in rounds if entry["kept"]]
        missed = ", not as asked" if "missed" in details else ""
        return f"{number(len(rounds), 'round')}{_asked(rounds[-1])}, {len(kept)} kept{_came_of(kept)}{missed}"
    return ""


def _in_int8(details: dict[str, Any]) -> str:
    """Say what a training for int8 was worth, on validation images."""
    if (found := details.get("simulated_int8")) is None:
        return ""
    values = "{before:.4f} before, {after:.4f} after, {in_floats:.4f} in floats before".format(**found)
    return f"; with int8 simulated in {number(found['layers'], 'layer')}, validation: {values}"


def _asked(entry: dict[str, Any]) -> str:
    """Say by which criterion a pruning round went, and what it was to spend."""
    if "importance" not in entry:
        return ""
    budget = entry.get("budget", {})
    parts = [f"{key} {budget[key]}" for key in ("scope", "per") if key in budget]
    parts += [f"target {name} {value:g}" for name, value in budget.get("target", {}).items()]
    return f" by {entry['importance']}" + (f" ({', '.join(parts)})" if parts else "")


def _came_of(kept: list[dict[str, Any]]) -> str:
    """Say what the last round that was kept removed, and what its repair gave back."""
    if not kept:
        return ""
    last = kept[-1]
    time = f", time {-last['latency']:+.1%}" if "latency" in last else ""
    errors = [last[key] for key in ("output_error_before", "output_error_after") if key in last]
    repaired = ", output error {:.2g}, repaired {:.2g}".format(*errors) if len(errors) == 2 else ""
    return f", sparsity {last['sparsity']:.1%}{time}{repaired}"


def summary(report: dict[str, Any]) -> list[str]:
    """Say in a sentence each what the model is, what was gained and lost, and what the teacher gave to it."""
    first, *_, last = report["rows"]
    classes = f" for {len(report['labels'])} classes" if report.get("labels") else ""
    task = task_of(report)
    kind = task.noun + (classes if task.classes else "")
    done = [*step_names(report), *(file["stage"] for file in report.get("deployed", []))] or ["unchanged"]
    made = f"A {model_name(last)} {kind}, made with hf-compress: {', '.join(done)}."
    return [made, _against(first, last, report), *_against_control(last, report), *recommendation(report)]


def _against_control(last: dict[str, Any], report: dict[str, Any]) -> Iterator[str]:
    """Compare the deciding metric; where there is none, as without labels, there is no control."""
    metric = task_of(report).deciding
    if entry := difference(last, metric.name, CONTROL):
        quality = report["control"]["quality"][metric.name]
        yield (
            f"Its control, the same student that learnt from the labels alone, has {metric.words} "
            f"{four_digits(quality)}; this model against it: {in_words(entry, test_images(report))}."
        )


def _against(first: dict[str, Any], last: dict[str, Any], report: dict[str, Any]) -> str:
    by = {measure.heading: measure for measure in measures(report)}
    changes = {heading: by[heading].change(first, last) for heading in ("parameters", "MACs") if heading in by}
    gains = [f"{change} {heading}" for heading, change in changes.items() if change not in ("", "same")]
    sentence = f"Against the {reference(first)} it has {' and '.join(gains) or 'as many parameters'}"
    quality = next((measure for measure in by.values() if measure.less is None), None)
    if quality is None:
        return f"{sentence}."
    instead = f" instead of {quality.text(first)}" if quality.of(first) is not None else ""
    images = test_images(report)
    on = f" on {number(images, f'{tested(report)} image')}" if images else ""
    entry = difference(last, quality.metric, first["stage"])
    sure = f": {in_words(entry, images)}" if entry else ""
    return f"{sentence}; its {quality.heading}{on} is {quality.text(last)}{instead}{sure}."


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
        (
            tested(report) if name == "test" else name,
            part["images"],
            part["from"],
            count(part, "unlabelled_images"),
            count(part, "corrupt_images_skipped"),
        )
        for name, part in report["data"]["splits"].items()
    ]


def class_measure(report: dict[str, Any]) -> str | None:
    """Return what is told of each class: its recall, IoU or average precision; None where nothing is."""
    return next((words for key, words in BY_CLASS.items() if key in report["rows"][-1]), None)


def class_table(report: dict[str, Any]) -> list[tuple[str, int | str, int, str, str]]:
    """Return one row a class: name, training images, test images, `class_measure` of the first and of the final model.

    Of more than 30 classes, the 15 with the lowest.
    """
    first, *_, last = report["rows"]
    if class_measure(report) is None:
        return []
    trained, tested_on = (report["data"]["splits"][split]["images_by_class"] for split in ("train", "test"))
    before, after = (_by_class(row, len(report["labels"])) for row in (first, last))
    order = range(len(after))
    if len(after) > MANY_CLASSES:
        order = sorted((i for i in order if after[i] is not None), key=after.__getitem__)[:WORST_CLASSES]
    return [
        (
            report["labels"][i],
            trained.get(report["labels"][i], ""),
            last["classes"]["images"][i] if "classes" in last else tested_on.get(report["labels"][i], 0),
            *("" if value is None else four_digits(value) for value in (before[i], after[i])),
        )
        for i in order
    ]


def evaluations_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the evaluations during a training, which a Trainer reports, not a run."""
    entries = report.get("evaluations", [])
    keys = list(dict.fromkeys(key for entry in entries for key in entry))
    return [quality_name(key) for key in keys], [
        [f"{entry[key]:.6g}" if key in entry else "" for key in keys] for entry in entries
    ]


def environment_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in report["environment"].items() if value is not None]


def test_images(report: dict[str, Any]) -> int:
    part = report["data"]["splits"]["test"]
    return part["images"] - (part["unlabelled_images"] or 0) or part["images"]


def tested(report: dict[str, Any]) -> str:
    """Say by which images the models are judged: a Trainer knows but one kind beside those that train."""
    return "evaluation" if "training" in report else "test"


def device(report: dict[str, Any]) -> str:
    """Return where latency was measured."""
    threads = report["measure"].get("threads") or report["environment"]["threads"]
    return f"{report['environment']['processor']} with {number(threads, 'thread')}"


def sources(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the models whose weights or answers went into this one, with their role."""
    return [source | {"role": role} for role, source in origin.sources_with_roles(report)]


def _by_class(row: dict[str, Any], classes: int) -> list[float | None]:
    told = recall(row["classes"]) if "classes" in row else row.get("class_iou", row.get("class_ap", []))
    return told + [None] * (classes - len(told))


def recall(classes: dict[str, list]) -> list[float | None]:
    """Return the recall of every class; None where it has no test images."""
    return [c / n if n else None for c, n in zip(classes["correct"], classes["images"], strict=True)]


def number(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"
