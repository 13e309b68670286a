"""The first line of a card: how small, how fast, at what cost, where."""

from typing import Any

from hf_compress.report.card_facts import device, reference
from hf_compress.report.deployed import judged_by, recommended
from hf_compress.report.measures import measures, quality_name

SAME = {"size on disk": "the same size on disk", "latency, one image, p50": "as fast with one image"}
GAINED = {"size on disk": "{} on disk", "latency, one image, p50": "{} with one image"}


def headline(report: dict[str, Any]) -> str:
    """Compare what is to be taken, the recommended file or the model itself, with the first model, in one line.

    What was not measured is left out; without any figure the line is empty.
    """
    first, *_, last = report["rows"]
    file = recommended(report)
    taken, by = file or last, {measure.heading: measure for measure in measures(report)}
    parts = []
    for heading, words in GAINED.items():
        change = by[heading].change(first, taken) if heading in by else ""
        if change:
            parts.append(SAME[heading] if change.startswith("same") else words.format(change))
    name = quality_name(judged_by(report).name)
    if lost := by[name].change(first, taken) if name in by else "":
        parts.append(f"{name} {lost}")
    if not parts:
        return ""
    what = f"{file['file']}, beside" if file else "beside"
    where = f" in PyTorch, on {device(report)}" if "latency" in first and "latency" in taken else ""
    return f"{', '.join(parts)}: {what} the {reference(first)}{where}"
