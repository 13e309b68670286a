"""One page that compares runs: from local folders, or from a user's models on the Hub."""

import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.files import user_path, write_text
from hf_compress.ground.shipped import shipped_file
from hf_compress.measure.intervals import difference, with_range
from hf_compress.report import card_facts as facts
from hf_compress.report.candidates_page import candidates
from hf_compress.report.card import HUB_TAG
from hf_compress.report.deployed import recommended
from hf_compress.report.differing import Settings, differing, settings
from hf_compress.report.markdown import one_line
from hf_compress.report.measures import CONTROL, Measure, control_of, measures
from hf_compress.report.run import RECIPE, REPORT, read_report
from hf_compress.report.scatter import pareto, scatter
from hf_compress.tasks import task_of

logger = logging.getLogger(__name__)

MOST_SETTINGS = 5
LATENCY = "latency, one image, p50"
COSTS = (LATENCY, "size on disk", "parameters")
FILTERS = {LATENCY: ("ms", 1), "size on disk": ("MB", 1e6), "parameters": ("M", 1e6)}
HEAD, MARK = 1000, b'<meta name="generator" content="hf-compress cards">'


def write_gallery(source: str, output: Path, overwrite: bool = False) -> int:
    """Write the page.

    Args:
        source: a folder that holds run folders, or a user of the Hub: their models with the tag `hf-compress`.
        output: the HTML file; an earlier page is replaced.
        overwrite: replace any other file.

    Returns:
        The number of runs on the page.

    Raises:
        UsageError: there are no runs, or the page cannot be written, or another file is there.
        RunError: the Hub is out of reach.
    """
    if not overwrite:
        _refuse_other_file(output)
    folder = user_path(source)
    runs, entries, left_out = 0, [], []
    for name, link, file in local_reports(folder, output) if folder.is_dir() else hub_reports(source):
        try:
            if file is None:
                raise UsageError(f"it has no {REPORT}")
            report = read_report(file)
        except UsageError as error:
            logger.warning("left out %s: %s", name, one_line(error))
            left_out.append((name, one_line(error)))
        else:
            if report.get("kind") != "study":  # whose runs come by themselves
                runs += 1
                entries += _entries(name, link, report, settings(file.parent))
                entries += candidates(name, link, report)
    if not entries:
        raise UsageError(
            f"'{source}' has no runs: give a folder of run folders, or a user of the Hub who published some"
        )
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(shipped_file("model_cards", "gallery.html").read_text(encoding="utf-8"))
    page = template.render(
        source=one_line(folder.resolve().name if folder.is_dir() else source),
        groups=_groups(entries),
        left_out=left_out,
        made=datetime.now(UTC).strftime("%Y-%m-%d"),
    )
    try:
        write_text(Path(output), page)
    except OSError as error:
        raise UsageError(f"'{output}' cannot be written: {error.strerror}") from None
    return runs


def _refuse_other_file(output: Path) -> None:
    """Allow a new file, and a page that an earlier call has made."""
    if not os.path.lexists(output):
        return
    if Path(output).is_file() and not Path(output).is_symlink():
        with open(output, "rb") as file:
            if MARK in file.read(HEAD):
                return
    raise UsageError(
        f"'{output}' exists and is no page of `hf-compress cards`: choose another --output, or --overwrite"
    )


def local_reports(folder: Path, output: Path) -> Iterator[tuple[str, str, Path]]:
    """Find the reports in a folder: name, link to the card from the page, and file."""
    start = Path(output).resolve().parent
    for path in sorted(folder.rglob(REPORT)):
        run = path.parent
        link = Path(os.path.relpath((run / "README.md").resolve(), start)).as_posix()
        name = run.relative_to(folder).as_posix() if run != folder else run.resolve().name
        yield one_line(name), quote(link), path


def hub_reports(user: str) -> Iterator[tuple[str, str, Path | None]]:
    """Fetch the reports of a user's models that carry the tag `hf-compress`; None where a model has none."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    api = HfApi(library_name="hf-compress")
    try:
        for model in api.list_models(author=user, filter=HUB_TAG):
            try:
                file = Path(api.hf_hub_download(model.id, REPORT))
            except EntryNotFoundError:
                file = None
            with suppress(EntryNotFoundError):
                api.hf_hub_download(model.id, RECIPE)  # it comes to lie beside the report
            yield one_line(model.id), f"{constants.ENDPOINT}/{quote(model.id)}", file
    except HfHubHTTPError as error:
        raise UsageError(f"the Hub does not list the models of '{user}': {error}") from None
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        raise RunError(f"'{user}' is no folder, and the Hub is out of reach: {error}") from None


def _entries(name: str, link: str, report: dict[str, Any], recipe: Settings) -> Iterator[dict[str, Any]]:
    """Give a run, its control and its files as lines of the page; what has the same `images` compares."""
    first, *_, last = report["rows"]
    steps = facts.step_names(report)
    metric = task_of(report).deciding
    best = recommended(report)
    for row in (last, *control_of(report), *report.get("deployed", [])):
        gain = difference(row, metric.name, CONTROL)
        remark = f"{metric.words} against the control {with_range(gain)}" if gain else ""
        done = steps if row is last else [*steps, row["stage"]]
        yield {
            "name": name if row is last else f"{name}, {one_line(row['stage'])}",
            "link": link,
            "model": one_line(facts.model_name(row)),
            "steps": one_line(", ".join(done)),
            "remark": "recommended for the device" if row is best else remark,
            "first": first,
            "last": row,
            "measures": measures(report),
            "images": (one_line(facts.short_name(report["data"]["path"])), facts.test_images(report), "test"),
            "device": one_line(facts.device(report)),
            "is_run": row is last,
            "recipe": recipe,
            "teacher": [first] if first["stage"] == "teacher" else [],
        }


def _groups(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Put what was measured on the same images together, with what compares it; others do not compare."""
    by_images = defaultdict(list)
    for entry in entries:
        by_images[entry["images"]].append(entry)
    for (data, number, kind), members in sorted(by_images.items()):
        found = {m.heading: m for entry in members for m in entry["measures"]}
        quality = next(m for m in found.values() if m.less is None)
        devices = sorted({entry["device"] for entry in members if "latency" in entry["last"]})
        compared = [each for each in COSTS if each in found and not (each == LATENCY and len(devices) > 1)]
        members = _by_front(members, [found[heading] for heading in compared], quality)
        rows, teachers = [e["last"] for e in members], [row for e in members for row in e["teacher"]]
        plots = {
            f"{quality.heading} against {heading}": scatter(found[heading], quality, rows, teachers)
            for heading in reversed(compared)
        }
        unlike = differing([entry["recipe"] for entry in members if entry["is_run"]])
        yield {
            "data": data,
            "number": number,
            "images": f"{number} {kind} images",
            "runs": sum(entry["is_run"] for entry in members) or len(members),
            "noun": "run" if any(entry["is_run"] for entry in members) else "candidate",
            "entries": members,
            "measures": [m for m in found.values() if not m.heading.endswith("p95")],
            "main": {quality.heading, "MACs", *COSTS},
            "settings": unlike[:MOST_SETTINGS],
            "more_settings": unlike[MOST_SETTINGS:],
            "quality": quality,
            "most": [(heading, *FILTERS[heading]) for heading in compared],
            "plots": [(title, svg) for title, svg in plots.items() if svg],
            "devices": devices,
        }


def _by_front(members: list[dict[str, Any]], costs: list[Measure], quality: Measure) -> list[dict[str, Any]]:
    """Sort by the first cost that all have: the Pareto front, the cheapest first, then the others, the best first."""
    cost = next((each for each in costs if all(each.of(entry["last"]) for entry in members)), None)
    if cost is None or any(quality.of(entry["last"]) is None for entry in members):
        return members
    sign = 1 if quality.higher_is_better else -1
    points = [(cost.of(entry["last"]), sign * quality.of(entry["last"])) for entry in members]
    best = pareto(points)
    order = sorted(best, key=points.__getitem__) + sorted(set(range(len(points))) - best, key=lambda i: -points[i][1])
    return [members[index] for index in order]
