"""What the reader of a card must know: sentences, each from a fact of the report."""

from collections.abc import Iterator
from typing import Any

from hf_compress.report.card_facts import device, number, recall, short_name, sources, test_images

FEW_IMAGES = 20
LOST = 0.05
UNSTEADY = 2
NAMED = 5


def limits(report: dict[str, Any]) -> list[str]:
    """Return the sentences that a reader must know, each from a fact of the report."""
    rules = (_not_as_asked, _few_test_images, _data, _lost, _overlap, _latency)
    return [sentence for rule in rules for sentence in rule(report)]


def _not_as_asked(report: dict[str, Any]) -> Iterator[str]:
    for row in report["rows"]:
        if missed := row.get("details", {}).get("missed"):
            what = "MACs" if missed["what"] == "macs" else missed["what"]
            yield (
                f"Step {row['stage']} was to remove {missed['asked']:.1%} of the {what} and removed "
                f"{missed['reached']:.1%}: {missed['reason']}."
            )
    for sentence in report.get("not_deployed", []):
        yield f"Not deployed: {sentence}."
    last = report["rows"][-1]
    latency = {"latency_ms": last["latency"]["batch_1"]["p50_ms"]} if "latency" in last else {}
    measured = last["cost"] | latency
    for key, limit in report.get("selection", {}).get("budget", {}).items():
        if measured.get(key, 0) > limit:
            yield f"The student was selected for a budget of {limit:g} {key}; the final model has {measured[key]:g}."


def _few_test_images(report: dict[str, Any]) -> Iterator[str]:
    images = test_images(report)
    yield f"The test set has {number(images, 'image')}: one image is worth {100 / images:.2g} points of accuracy."
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
    timed = [entry for row in report["rows"] for entry in row.get("latency", {}).values()]
    spread = max((entry["p95_ms"] / entry["p50_ms"] for entry in timed), default=1)
    if spread > UNSTEADY:
        yield (
            f"Latency was unsteady, its 95th percentile up to {spread:.1f} times the median: the ratios of latency "
            "are unsure."
        )


def _listed(names: list[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
