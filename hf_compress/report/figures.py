"""Figures of a run, drawn from its report: PNG files that are readable at the width of a card."""

import math
from itertools import cycle, takewhile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from hf_compress.measure.detail import BINS
from hf_compress.measure.intervals import difference, with_range
from hf_compress.report.curves import training
from hf_compress.report.deployed import recommended
from hf_compress.report.front import front_figure
from hf_compress.report.measures import CONTROL
from hf_compress.report.scatter import pareto
from hf_compress.report.style import (
    BLUE,
    GREY,
    ORANGE,
    PALE,
    STYLE,
    WIDTH,
    drawable,
    make_panels,
    save_figure,
    top_down,
)
from hf_compress.tasks import task_of

BAR_HEIGHT = 0.24  # inches
COSTS = {
    "latency_ms": ("latency of one image, ms", 1),
    "macs": ("MACs, M", 1e6),
    "parameters": ("parameters, M", 1e6),
    "bytes": ("size on disk, MB", 1e6),
}
MATRIX_CLASSES, WRITTEN_CLASSES, MOST_CONFUSED, DRAWN_LAYERS = 30, 15, 15, 40


def draw_figures(report: dict[str, Any], folder: Path) -> list[Path]:
    """Draw every figure that the report has facts for; return the files, named as `FIGURES`."""
    drawn = []
    with mpl.rc_context(STYLE):
        for name, (draw, _) in FIGURES.items():
            if (figure := draw(report)) is not None:
                folder.mkdir(parents=True, exist_ok=True)
                path = folder / f"{name}.png"
                save_figure(figure, path)
                drawn.append(path)
    return drawn


def selection(report: dict[str, Any]) -> Figure | None:
    """Draw accuracy after the first and the last probe of each candidate against the cost that the budget bounds."""
    found = report.get("selection")
    probed = [row for row in found["candidates"] if row.get("probe_accuracies")] if found else []
    if not probed:
        return None
    key = next(key for key in COSTS if key in found["budget"])
    label, unit = COSTS[key]
    figure, (axes,) = make_panels(height=3.8)
    costs = [row[key] / unit for row in probed]
    first, last = ([row["probe_accuracies"][index] for row in probed] for index in (0, -1))
    points = list(zip(costs, first, strict=True))
    front = sorted(points[index] for index in pareto(points))
    axes.plot(costs, first, "o", color=BLUE, fillstyle="none", label="first probe")
    axes.step(*zip(*front, strict=True), where="post", color=GREY, linewidth=1, label="Pareto front of it")
    axes.vlines(costs, first, last, color=BLUE, linewidth=1)
    axes.plot(costs, last, "o", color=BLUE, label="last probe")
    for row, cost, accuracy in zip(probed, costs, last, strict=True):
        if found["winner"].items() <= row.items():
            ring = {"markersize": 11, "fillstyle": "none", "markeredgewidth": 2}
            axes.plot(cost, accuracy, "o", color=ORANGE, label="chosen", **ring)
        name = f"{row['model']} x{row['width']:g}"
        place = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center"}
        axes.annotate(name, (cost, accuracy), fontsize=8, **place)
    axes.axvline(found["budget"][key] / unit, color=ORANGE, linestyle="--", linewidth=1, label="budget")
    axes.set_xlabel(label)
    axes.set_ylabel("validation accuracy")
    axes.margins(x=0.12, y=0.15)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def rounds(report: dict[str, Any]) -> Figure | None:
    """Draw the deciding metric over the rounds of every pruning step."""
    steps = [row for row in report["rows"] if row.get("details", {}).get("rounds")]
    if not steps:
        return None
    metric = task_of(report).deciding
    key = f"validation_{metric.name}"
    figure, (axes,) = make_panels(height=3.2)
    removed = any(entry["parameters"] > 0 for row in steps for entry in row["details"]["rounds"])
    gone = "parameters" if removed else "sparsity"
    for row, colour in zip(steps, cycle([BLUE, "#009e73", "#cc79a7", "#56b4e9"]), strict=False):
        kept, dropped = [(100.0, row["details"][f"unpruned_{key}"])], []
        for entry in row["details"]["rounds"]:
            if key in entry:
                (kept if entry["kept"] else dropped).append((100 * (1 - entry[gone]), entry[key]))
        axes.plot(*zip(*kept, strict=True), "o-", color=colour, markersize=4, label=f"{row['stage']}: kept")
        if dropped:
            axes.plot(*zip(*dropped, strict=True), "x", color=GREY, label=f"{row['stage']}: too far, rolled back")
        axes.plot(*kept[-1], "o", color=ORANGE, markersize=11, fillstyle="none", markeredgewidth=2)
        axes.annotate("chosen", kept[-1], xytext=(0, 10), textcoords="offset points", ha="center")
    axes.invert_xaxis()
    axes.margins(x=0.06, y=0.18)
    axes.set_xlabel("parameters left, %" if removed else "weights that are not zero, %")
    axes.set_ylabel(f"validation {metric.words}")
    axes.legend()
    return figure


def layers(report: dict[str, Any]) -> Figure | None:
    """Draw widths before and after; where none changed, the sparsity."""
    found = {name: layer for name, layer in report.get("layers", {}).items() if None not in layer["width"]}
    by_width = any(before != after for before, after in (layer["width"] for layer in found.values()))
    if not by_width and not any(layer["sparsity"][1] for layer in found.values()):
        return None
    shares = {
        n: layer["width"][1] / layer["width"][0] if by_width else 1 - layer["sparsity"][1]
        for n, layer in found.items()
    }
    most = sorted(shares, key=shares.get)[:DRAWN_LAYERS]
    names = [n for n in found if len(found) <= DRAWN_LAYERS or (n in most and shares[n] < 1)]
    figure, (axes,) = make_panels(height=0.8 + BAR_HEIGHT * len(names))
    axes.barh(range(len(names)), [100] * len(names), color=PALE, height=0.7)
    axes.barh(range(len(names)), [100 * shares[name] for name in names], color=BLUE, height=0.7)
    for index, name in enumerate(names):
        before, after = found[name]["width"]
        text = f"{after} of {before}" if by_width else f"{100 * found[name]['sparsity'][1]:.0f}% zeros"
        axes.text(102, index, text, va="center", fontsize=8, color=GREY)
    axes.set_yticks(range(len(names)), _short_layers(names), fontsize=8)
    axes.set_xlim(0, 118)
    axes.set_xticks(range(0, 101, 25))
    axes.set_xlabel("output channels left, %" if by_width else "weights that are not zero, %")
    if len(names) < len(found):
        axes.set_title(f"The {len(names)} most pruned of {len(found)} layers")
    top_down(axes, len(names))
    return figure


def latency(report: dict[str, Any]) -> Figure | None:
    """Draw the median latency of every stage, one panel a batch size; a line reaches to the 95th percentile."""
    rows = [row for row in report["rows"] if row.get("latency")]
    if not rows:
        return None
    batches = list(rows[0]["latency"])
    figure, panels = make_panels(height=0.9 + 0.36 * len(rows), columns=len(batches))
    for axes, batch in zip(panels, batches, strict=True):
        p50, p95 = ([row["latency"][batch][key] for row in rows] for key in ("p50_ms", "p95_ms"))
        colours = [BLUE if row is rows[-1] else PALE for row in rows]
        axes.barh(range(len(rows)), p50, color=colours, height=0.6)
        axes.hlines(range(len(rows)), p50, p95, color=GREY, linewidth=1)
        axes.plot(p95, range(len(rows)), "|", color=GREY)
        for index, (median, tail) in enumerate(zip(p50, p95, strict=True)):
            axes.text(tail, index, f"  {_short(median)} ({_short(tail)})", va="center", fontsize=8)
        axes.set_title("one image" if batch == "batch_1" else f"{batch.replace('_', ' of ')} images")
        axes.set_xlabel("median, and 95th percentile, ms")
        axes.set_xlim(0, 1.4 * max(p95))
        axes.set_yticks(range(len(rows)), [row["stage"] for row in rows])
        top_down(axes, len(rows))
    return figure


def on_device(report: dict[str, Any]) -> Figure | None:
    """Draw size, latency of one image and quality of the first model, the final one, and the deployed files."""
    files, (first, *_, last) = report.get("deployed", []), report["rows"]
    metric, rows, best = task_of(report).deciding, [first, last, *files], recommended(report)
    if not files or any("bytes" not in row["cost"] or "batch_1" not in row.get("latency", {}) for row in rows):
        return None
    figure, panels = make_panels(height=0.9 + 0.36 * len(rows), columns=3)
    shown = {
        "size, MB": [(row["cost"]["bytes"] / 1e6, ".2f") for row in rows],
        "one image, p50, ms": [(row["latency"]["batch_1"]["p50_ms"], ".2f") for row in rows],
        metric.words: [(row["quality"].get(metric.name, math.nan), ".4f") for row in rows],
    }
    names = [*(f"{row['stage']}, PyTorch" for row in rows[:2]), *(drawable(row["stage"], 22) for row in files)]
    colours = [ORANGE if row is best else BLUE if row is last else PALE for row in rows]
    for axes, (words, cells) in zip(panels, shown.items(), strict=True):
        values = [value for value, _ in cells]
        axes.barh(range(len(rows)), values, color=colours, height=0.6)
        for index, (value, form) in enumerate(cells):
            if not math.isnan(value):
                axes.text(max(value, 0), index, f" {value:{form}}", va="center", fontsize=8)
        axes.set_title(words)
        axes.set_xlim(0, 1.4 * max((value for value in values if value > 0), default=1))
        axes.set_yticks(range(len(rows)), names)
        top_down(axes, len(rows))
    return figure


def against_control(report: dict[str, Any]) -> Figure | None:
    """Draw the deciding metric of the first model, the control and the final model, and the interval of its gain."""
    metric, (first, *_, last) = task_of(report).deciding, report["rows"]
    entry = difference(last, metric.name, CONTROL)
    if entry is None:
        return None
    rows = [first, report["control"], last]
    values = [row["quality"].get(metric.name, math.nan) for row in rows]
    figure, (axes,) = make_panels(height=1.6)
    axes.barh(range(3), values, color=[PALE, PALE, BLUE], height=0.6)
    axes.plot([values[1] + entry["low"], values[1] + entry["high"]], [2, 2], "|-", color=ORANGE, linewidth=1)
    axes.set_title(f"Final model against control: {with_range(entry)}")
    axes.set_xlabel(metric.words)
    axes.set_yticks(range(3), [row["stage"] for row in rows])
    top_down(axes, 3)
    return figure


def confusion(report: dict[str, Any]) -> Figure | None:
    """Draw the confusion matrix; with more than 30 classes, the pairs that are confused most."""
    classes = report["rows"][-1].get("classes")
    if not classes:
        return None
    names = [drawable(name, 22) for name in report["labels"]]
    return _matrix(classes, names) if len(names) <= MATRIX_CLASSES else _most_confused(classes, names)


def _matrix(classes: dict[str, list], names: list[str]) -> Figure:
    counts = np.diag(classes["correct"])
    for true, predicted, images in classes["confused"]:
        counts[true, predicted] = images
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(WIDTH, 2.4 + 0.3 * len(names))
    figure, (axes,) = make_panels(height=side, width=side)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    slanted = {"rotation": 45, "ha": "right"} if max(map(len, names)) > 3 else {}
    axes.set_xticks(range(len(names)), names, **slanted)
    axes.set_yticks(range(len(names)), names)
    if len(names) <= WRITTEN_CLASSES:
        for true, predicted in zip(*counts.nonzero(), strict=True):
            colour = "white" if shares[true, predicted] > 0.5 else "black"
            axes.text(predicted, true, counts[true, predicted], ha="center", va="center", color=colour, fontsize=8)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title("Images; the shade is the share of the true class")
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def _most_confused(classes: dict[str, list], names: list[str]) -> Figure | None:
    pairs = classes["confused"][:MOST_CONFUSED]
    if not pairs:
        return None
    figure, (axes,) = make_panels(height=0.9 + BAR_HEIGHT * len(pairs))
    axes.barh(range(len(pairs)), [images for *_, images in pairs], color=BLUE, height=0.7)
    labels = [f"{names[true]} → {names[predicted]}" for true, predicted, _ in pairs]
    axes.set_yticks(range(len(pairs)), labels, fontsize=8)
    axes.set_xlabel("test images")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(f"The {len(pairs)} most frequent confusions, true → predicted")
    top_down(axes, len(pairs))
    return figure


def reliability_diagram(report: dict[str, Any]) -> Figure | None:
    """Draw accuracy against confidence of the first and the final model, and how many images are how confident."""
    rows = [row for row in (report["rows"][0], report["rows"][-1]) if row.get("reliability")]
    if not rows:
        return None
    figure = Figure(figsize=(WIDTH * 0.72, 4.2), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1, label="as confident as right")
    for row, colour in zip(rows, [ORANGE, BLUE][-len(rows) :], strict=True):
        mean, accuracy, images = zip(*row["reliability"]["bins"], strict=True)
        error = row["reliability"]["expected_calibration_error"]
        axes.plot(
            mean, accuracy, "o-", color=colour, markersize=4, label=f"{row['stage']}: calibration error {error:.3f}"
        )
    counts.bar([(math.ceil(BINS * value) - 0.5) / BINS for value in mean], images, width=0.9 / BINS, color=BLUE)
    counts.set_ylabel("images")
    counts.set_xlabel("confidence")
    axes.set_ylabel("accuracy")
    axes.set_xlim(0, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1))
    return figure


FIGURES = {  # what draws each, and its caption
    "front": (
        front_figure,
        "What else was possible: quality on validation images against the time and the size of the deployed file; the "
        "model as it is is a square, the chosen one is ringed, and front/NUMBER.yaml makes the numbered ones",
    ),
    "selection": (
        selection,
        "Students that competed for the budget: validation accuracy in short trainings against cost",
    ),
    "training": (
        training,
        "Training loss and validation quality of every epoch, by stage, those of the rounds of pruning one after the "
        "other; the best epoch is marked, a control is dashed",
    ),
    "rounds": (
        rounds,
        "Validation quality against what is left after each pruning round; the round that was chosen is marked",
    ),
    "layers": (layers, "What is left of each layer"),
    "control": (
        against_control,
        "What the teacher gave: the final model, and its control that learnt from the labels alone; the line is the "
        "95 % interval of their difference, from the control on",
    ),
    "device": (
        on_device,
        "The first and the final model in PyTorch, and every file in its runtime; the recommended one is marked",
    ),
    "latency": (latency, "Latency of every stage"),
    "confusion": (confusion, "Which classes are taken for which, on the test images"),
    "reliability": (reliability_diagram, "Accuracy against confidence, on the test images"),
}


def _short(milliseconds: float) -> str:
    return f"{milliseconds:.2f}" if milliseconds < 100 else f"{milliseconds:,.0f}"


def _short_layers(names: list[str]) -> list[str]:
    """Leave out what all names begin with; of long names the end is kept, which tells them apart."""
    levels = zip(*(name.split(".")[:-1] for name in names), strict=False)
    common = len(list(takewhile(lambda parts: len(set(parts)) == 1, levels)))
    short = [".".join(name.split(".")[common:]) for name in names]
    return [name if len(name) <= 44 else "…" + name[-43:].partition(".")[2] for name in short]
