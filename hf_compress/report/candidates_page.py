"""The candidates of a search as lines of the page that compares runs, in a part of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hf_compress.report import card_facts as facts
from hf_compress.report.markdown import one_line
from hf_compress.report.measures import measures

JUDGED = 1000
"""Validation images by which a search judges, most."""


def candidates(name: str, link: str, report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give every candidate as a line, those of the front with a link to their recipes; nothing without a search.

    Args:
        link: to the run's card, or to its repository.
    """
    found, validation = report.get("search"), report["data"]["splits"].get("validation")
    if not (found and validation and validation["images"]):
        return
    rows = [_row(point, found["metric"]) for point in found["points"]]
    known = measures({"rows": rows})
    where = f"{one_line(facts.short_name(report['data']['path']))}: what {name} was chosen from"
    files = link.removesuffix("README.md") if link.endswith("README.md") else f"{link}/blob/main/"
    for point, row in zip(found["points"], rows, strict=True):
        yield {
            "name": one_line(f"{point['name']}{', chosen' * point['winner']}"),
            "link": f"{files}front/{point['name']}.yaml" if point["front"] else link,
            "model": "recipe" if point["front"] else "",
            "steps": one_line(point["what"]),
            "remark": "",
            "first": rows[0],
            "last": row,
            "measures": known,
            "images": (where, min(JUDGED, validation["images"]), "validation"),
            "device": f"{one_line(facts.device(report))}, in {one_line(found['request']['runtime'])}",
            "is_run": False,
            "recipe": {},
            "teacher": [row] if point is found["points"][0] else [],
        }


def _row(point: dict[str, Any], metric: str) -> dict[str, Any]:
    """Return a candidate in the form of a row of the report."""
    timed = {"latency": {"batch_1": {"p50_ms": point["latency_ms"]}}} if "latency_ms" in point else {}
    costs = {key: point[key] for key in ("parameters", "macs", "bytes")}
    return {"stage": one_line(point["name"]), "quality": {metric: point["quality"]}, "cost": costs, **timed}
