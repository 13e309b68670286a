"""One page that compares runs: from local folders, or from a user's models on the Hub."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2

from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.files import user_path, write_text
from hf_compress.ground.shipped import shipped_file
from hf_compress.report import card_facts as facts
from hf_compress.report.card import HUB_TAG
from hf_compress.report.markdown import one_line
from hf_compress.report.measures import measures
from hf_compress.report.run import REPORT, read_report
from hf_compress.report.scatter import scatter

logger = logging.getLogger(__name__)

HEAD, MARK = 1000, b'<meta name="generator" content="hf-compress cards">'


@dataclass(frozen=True)
class Entry:
    """A run on the page, or one of its files for other runtimes.

    Attributes:
        name: folder or repository.
        link: address of its card.
        report: what its `report.json` holds.
        deployed: the file's row there; None for the model itself.
    """

    name: str
    link: str
    report: dict[str, Any]
    deployed: dict[str, Any] | None = None

    @property
    def files(self) -> list[Entry]:
        return [
            replace(self, name=f"{self.name}, {one_line(row['stage'])}", deployed=row)
            for row in self.report.get("deployed", [])
        ]

    @property
    def first(self) -> dict[str, Any]:
        return self.report["rows"][0]

    @property
    def last(self) -> dict[str, Any]:
        return self.deployed or self.report["rows"][-1]

    @property
    def images(self) -> tuple[str, int]:
        """What makes figures comparable: the data and the number of test images."""
        return one_line(facts.short_name(self.report["data"]["path"])), facts.test_images(self.report)

    @property
    def model(self) -> str:
        return one_line(facts.model_name(self.last))

    @property
    def steps(self) -> str:
        names = facts.step_names(self.report) + ([self.deployed["stage"]] if self.deployed else [])
        return one_line(", ".join(names))

    @property
    def device(self) -> str:
        return one_line(facts.device(self.report))


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
    runs, left_out = [], []
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
                runs.append(Entry(name, link, report))
    entries = [entry for run in runs for entry in (run, *run.files)]
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
    return len(runs)


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
            yield one_line(model.id), f"{constants.ENDPOINT}/{quote(model.id)}", file
    except HfHubHTTPError as error:
        raise UsageError(f"the Hub does not list the models of '{user}': {' '.join(str(error).split())}") from None
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        reason = " ".join(str(error).split())
        raise RunError(f"'{user}' is no folder, and the Hub is out of reach: {reason}") from None


def _groups(entries: list[Entry]) -> list[dict[str, Any]]:
    """Put what was measured on the same images together, with what compares it; others do not compare."""
    by_images: dict[tuple[str, int], list[Entry]] = {}
    for entry in entries:
        by_images.setdefault(entry.images, []).append(entry)
    return [_group(*images, members) for images, members in sorted(by_images.items())]


def _group(data: str, test_images: int, entries: list[Entry]) -> dict[str, Any]:
    found = {m.heading: m for entry in entries for m in measures(entry.report)}
    quality = next(m for m in found.values() if m.less is None)
    plots = [
        (f"{quality.heading} against {heading}", svg)
        for heading in ("parameters", "latency, one image, p50")
        if heading in found and (svg := scatter(found[heading], quality, [entry.last for entry in entries]))
    ]
    return {
        "data": data,
        "test_images": test_images,
        "runs": sum(entry.deployed is None for entry in entries),
        "entries": entries,
        "measures": [m for m in found.values() if not m.heading.endswith("p95")],
        "plots": plots,
        "devices": sorted({entry.device for entry in entries if "latency" in entry.last}),
    }
