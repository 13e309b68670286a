"""What a reader should not have to find out alone: sentences, each from a fact of the report."""

from collections.abc import Iterator
from itertools import pairwise, product
from typing import Any

from hf_compress.device.timing import ALONE
from hf_compress.measure.intervals import difference, in_words
from hf_compress.report.card_facts import device, number, recall, reference, short_name, sources, test_images, tested
from hf_compress.report.measures import latencies
from hf_compress.tasks import task_of

FEW_IMAGES = 20
LOST = 0.05
UNSTEADY = 2
NAMED = 5
NOTICEABLE = 0.05
MISJUDGED, NOTED_ERROR = 1.5, 0.01


def limits(report: dict[str, Any]) -> list[str]:
    """Return the sentences that a reader must know, each from a fact of the report; what got worse comes first."""
    rules = (_not_as_asked, _worse, _lost, _remarks, _few_test_images, _data, _overlap, _latency)
    return [sentence for rule in rules for sentence in rule(report)]


def _remarks(report: dict[str, Any]) -> Iterator[str]:
    for remark in report.get("remarks", []):
        yield f"{remark[:1].upper()}{remark[1:]}."


def _not_as_asked(report: dict[str, Any]) -> Iterator[str]:
    for row in report["rows"]:
        if missed := row.get("details", {}).get("missed"):
            what = {"macs": "MACs", "latency": "time"}.get(missed["what"], missed["what"])
            yield (
                f"Step {row['stage']} was to remove {missed['asked']:.1%} of the {what} and removed "
                f"{missed['reached']:.1%}: {missed['reason']}."
            )
    for sentence in report.get("not_deployed", []):
        yield f"Not deployed: {sentence}."
    for sentence in report.get("not_run", []):
        yield f"{sentence}."
    last = report["rows"][-1]
    latency = {"latency_ms": last["latency"]["batch_1"]["p50_ms"]} if "latency" in last else {}
    measured = last["cost"] | latency
    for key, limit in report.get("selection", {}).get("budget", {}).items():
        if measured.get(key, 0) > limit:
            yield f"The student was selected for a budget of {limit:g} {key}; the final model has {measured[key]:g}."


def _worse(report: dict[str, Any]) -> Iterator[str]:
    """Name each quality that is surely worse than before, also in a deployed file, and a calibration that is."""
    first, *_, last = report["rows"]
    images, files = test_images(report), report.get("deployed", [])
    compared = [("the model", last, first), *((row["file"], row, last) for row in files)]
    for (name, row, before), metric in product(compared, task_of(report).metrics):
        entry = difference(row, metric.name, before["stage"])
        if entry and min(metric.lost(entry[end], 0) for end in ("low", "high")) > 0:
            other = f"the {reference(before)}" if before is first else "the final model in PyTorch"
            yield f"The {metric.words} of {name} is surely worse than that of {other}: {in_words(entry, images)}."
    key = "expected_calibration_error"
    old, new = (row.get("reliability", {}).get(key) for row in (first, last))
    if old and new and new >= MISJUDGED * old and new - old >= NOTED_ERROR:
        yield (
            f"The calibration error rose from {old:.4f} to {new:.4f} ({new / old:.1f}x): how sure the model says it "
            f"is tells less of how often it is right than it did of the {reference(first)}."
        )


def _few_test_images(report: dict[str, Any]) -> Iterator[str]:
    images = test_images(report)
    if images:
        worth = f": one image is worth {100 / images:.2g} points of accuracy" if task_of(report).deciding.share else ""
        yield f"The {tested(report)} set has {number(images, 'image')}{worth}."
    if any(row.get("differences") for row in report["rows"]):
        yield (
            "The range behind a difference is its 95 % interval, by a paired bootstrap of the test images: it says "
            "nothing of another training, nor of images of another kind."
        )
    classes = report["rows"][-1].get("classes")
    for split, counts in (
        ("test", classes and dict(zip(report["labels"], classes["images"], strict=True))),
        ("training", report["data"]["splits"]["train"]["images_by_class"]),
    ):
        few = sorted((n, name) for name, n in (counts or {}).items() if n < FEW_IMAGES)
        if few:
            named = _listed([f"{name} ({n})" for n, name in few])
            yield f"{number(len(few), 'class', 'classes')} with fewer than {FEW_IMAGES} {split} images: {named}."


def _data(report: dict[str, Any]) -> Iterator[str]:
    data = report["data"]
    for entry in data.get("left_out", []):
        yield f"Left out of the data: {entry['reason']} ({entry['count']:,}, such as {entry['example']})."
    shown = data["splits"].get("validation", {}).get("images_by_class")
    absent = [name for name in report["labels"] if name not in shown] if shown else []
    if absent:
        yield f"Validation, which chose the best epoch, had no image of {_listed(absent)}."
    streamed = data["splits"]["train"]["corrupt_images_skipped"] is None
    for leak in data.get("leaks", []):
        first, second = leak["splits"]
        where = "a sample of train" if streamed and first == "train" else first
        flattered = "the figures" if second == "test" else "the choice of the best epoch"
        result = f"{leak['dropped']:,} dropped from {where}" if leak["dropped"] else f"this flatters {flattered}"
        found = f"{leak['images']:,}, such as {leak['example']}"
        yield f"{second.capitalize()} images that are in {where}, too: {found}; {result}."
    for conflict in data.get("conflicting_labels", []):
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
        yield f"Recall fell against the teacher in {number(len(lost), 'class', 'classes')}: {named}."


def _overlap(report: dict[str, Any]) -> Iterator[str]:
    for source in sources(report):
        yield (
            f"Nothing is known here about the images that the {source['role']} {short_name(source['id'])} was trained "
            "on before: test images may be among them, which would flatter every figure."
        )


def _latency(report: dict[str, Any]) -> Iterator[str]:
    if any("latency" in row for row in report["rows"]):
        files = ", that of a deployed file in its runtime" if report.get("deployed") else ""
        yield (
            f"Latency was measured on {device(report)} in PyTorch{files}; another device, runtime or batch size gives "
            "other ratios."
        )
    if any("speedup" in entry for row in report["rows"] for entry in row.get("latency", {}).values()):
        yield (
            "The range behind a ratio of latency is its 95 % interval, by a paired bootstrap of the turns in which "
            "the models were timed: it says nothing of another machine, nor of this one on another day."
        )
    yield from busy(report)
    timed = [entry for row in report["rows"] for entry in row.get("latency", {}).values()]
    noise = max((entry.get("noise", 0) for entry in timed), default=0)
    if noise > NOTICEABLE:
        yield (
            f"The machine was noisy: medians of five rounds of the same passes lay up to {noise:.0%} apart, so that "
            "smaller differences in latency mean nothing."
        )
    spread = max((entry["p95_ms"] / entry["p50_ms"] for entry in timed), default=1)
    if spread > UNSTEADY:
        yield (
            f"Latency was unsteady, its 95th percentile up to {spread:.1f} times the median: the ratios of latency "
            "are unsure."
        )


def busy(report: dict[str, Any]) -> list[str]:
    """Say that other processes ran while latency was measured; nothing where they took less than a tenth of a core."""
    timed = [report.get("measure", {}), *report.get("deployed", [])]
    cores = max(part.get("other_cores", 0) for part in timed)
    if cores < ALONE:
        return []
    return [
        f"Other processes took {cores:.1f} cores while latency was measured: compare within a table, and measure "
        "again on an idle machine for ratios that can be trusted."
    ]


def _listed(names: list[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def speed_remarks(rows: list[dict[str, Any]]) -> list[str]:
    """Say where fewer MACs did not become less time, and where a rewrite made a model slower.

    Returns:
        One sentence for every stage, runtime and batch size with at least 5 % fewer MACs than the first stage, but a
        median latency that is less than 5 % shorter; and for every rewrite whose median latency is at least 5 % longer
        than that of the stage before it.
    """
    first, *others = rows
    not_faster = [
        f"'{row['stage']}' has {1 / macs:.2f}x fewer MACs than '{first['stage']}', but is not faster {place}: "
        f"{own:.2f} ms against {before:.2f} ms"
        for row in others
        if (macs := row["cost"]["macs"] / first["cost"]["macs"]) <= 1 - NOTICEABLE
        for place, own, before in _medians(row, first)
        if own > before * (1 - NOTICEABLE)
    ]
    slower_rewrites = [
        f"'{row['stage']}' is slower than '{before['stage']}' {place}: {own:.2f} ms against {old:.2f} ms"
        for before, row in pairwise(rows)
        if "rewrite" in row.get("details", {})
        for place, own, old in _medians(row, before)
        if own >= old * (1 + NOTICEABLE)
    ]
    return sorted(not_faster) + sorted(slower_rewrites)


def _medians(row: dict[str, Any], other: dict[str, Any]) -> Iterator[tuple[str, float, float]]:
    """Give the median latencies of two rows wherever both were measured, with the runtime and batch size in words."""
    for runtime, latency in latencies(row).items():
        reference = latencies(other).get(runtime, {})
        for batch in latency.keys() & reference.keys():
            place = f"with {runtime} at {batch.replace('_', ' ')}"
            yield place, latency[batch]["p50_ms"], reference[batch]["p50_ms"]
