"""What a search found: quality against time and size, and the points that no other beats."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_compress.report.measures import four_digits, in_thousands, milliseconds, ratio, size
from hf_compress.report.scatter import pareto
from hf_compress.report.style import BLUE, GREEN, GREY, ORANGE, make_panels
from hf_compress.tasks.base import known_metrics

AXES = {"latency_ms": ("latency of one image, ms", 1), "bytes": ("deployed file, MB", 1e6)}


def front_figure(report: dict[str, Any]) -> Figure | None:
    """Draw the points of a search: int8 filled, float32 hollow, the model as it is as a square, the winner ringed."""
    found = report.get("search")
    if not found:
        return None
    shown = [key for key in AXES if sum(key in point for point in found["points"]) > 1]
    if not shown:
        return None
    figure, panels = make_panels(height=3.6, columns=len(shown))
    for axes, key in zip(panels, shown, strict=True):
        _draw(axes, [point for point in found["points"] if key in point], key)
    panels[0].set_ylabel(f"validation {known_metrics()[found['metric']].words}")
    panels[-1].legend(loc="lower right", fontsize=8)
    return figure


def _draw(axes: Axes, points: list[dict[str, Any]], key: str) -> None:
    heading, unit = AXES[key]
    better = [(point[key], -point["lost"]) for point in points]
    best = sorted((points[index][key] / unit, points[index]["quality"]) for index in pareto(better))
    axes.step(*zip(*best, strict=True), where="post", color=GREY, linewidth=1)
    labels = set()
    for point in points:
        place = (point[key] / unit, point["quality"])
        colour, kind = _kind(point)
        label = f"{kind}, {'int8' if point['int8'] else 'float32'}"
        fill = "full" if point["int8"] else "none"
        marker = "s" if point["name"] == "00" else "o"
        axes.plot(*place, marker, color=colour, fillstyle=fill, label=None if label in labels else label, linestyle="")
        labels.add(label)
        if point["front"]:
            axes.annotate(point["name"], place, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=7)
        if point["winner"]:
            axes.plot(*place, "o", color=ORANGE, markersize=12, fillstyle="none", markeredgewidth=2)
    axes.set_xlabel(heading)
    axes.margins(0.08, 0.12)


def _kind(point: dict[str, Any]) -> tuple[str, str]:
    """Return the colour of a point and what was done for its quality."""
    if point.get("brief"):
        return GREEN, "student, trained briefly"
    return (ORANGE, "trained") if point["trained"] else (BLUE, "repaired")


def front_table(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the points that no other beats, of the model as it is, and of the winner.

    Both are empty where there was no search.
    """
    if not (found := report.get("search")):
        return [], []
    metric = known_metrics()[found["metric"]]
    headings = ["", "what", f"validation {metric.words}", "lost", "latency", "file", "MACs", "parameters"]
    shown = [point for point in found["points"] if point["front"] or point["winner"] or point["name"] == "00"]
    rows = [
        [
            f"{point['name']}{', chosen' * point['winner']}",
            point["what"],
            four_digits(point["quality"]),
            four_digits(point["lost"]),
            _time(point),
            size(point["bytes"]),
            in_thousands(point["macs"]),
            in_thousands(point["parameters"]),
        ]
        for point in sorted(shown, key=lambda point: -point["effort"])
    ]
    return headings, rows


def how_found(report: dict[str, Any]) -> list[str]:
    """Say in sentences how a search went; nothing where there was none."""
    if not (found := report.get("search")):
        return []
    request, points, failed = found["request"], found["points"], found["failed"]
    trained, brief = (sum(point.get(key, False) for point in points) for key in ("trained", "brief"))
    wished = ", ".join(f"{key} {value:g}" for key, value in request["wish"].items())
    others = f"; {brief} files of other architectures after a short training" if brief else ""
    said = [
        f"Found by hf-compress auto with the wish {wished} in {request['runtime']}.",
        f"{len(points) - trained - brief} candidates were judged without training, by the quality of their files on "
        f"validation images{others}. The most promising were trained: {trained} files. Test images took no part.",
    ]
    if failed:
        said.append(f"{len(failed)} more could not be had.")
    prediction = found["prediction"]
    if "mean_error" in prediction:
        rank = prediction.get("rank_correlation")
        ranked = f"; rank correlation of the losses before and after training: {rank:.2f}" if rank is not None else ""
        said.append(
            "What would be lost after training was foretold with a mean error of "
            f"{prediction['mean_error']:.4f}{ranked}."
        )
    return said


def _time(point: dict[str, Any]) -> str:
    if "teacher_ms" not in point:
        return ""
    return f"{milliseconds(point['latency_ms'])} ({ratio(point['teacher_ms'], point['latency_ms'], 'faster')})"
