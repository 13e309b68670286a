"""The table and the figure of `pruning_peers.py`."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from pruning_cases import CASES

NAMES = {
    "ours": "hf-compress: obs, least squares",
    "tp-l1": "torch-pruning L1",
    "tp-l1-layer": "torch-pruning L1, layers alike",
    "tp-l2": "torch-pruning L2",
    "tp-taylor": "torch-pruning Taylor",
    "tp-hessian": "torch-pruning Hessian",
    "tp-isomorphic": "torch-pruning Taylor, isomorphic",
    "fastnas": "ModelOpt FastNAS",
    "unpruned": "unpruned",
}
LEFT_OUT = (
    "- AIMET 2.42: its channel pruning stops with `Unsupported op_type pad` at the padding in MobileNetV2 and in the "
    "shortcuts of ResNet-56, and knows convolutions alone.",
    "- NNCF 3.4: all modes of `nncf.prune` zero single weights, so that as many MACs are left as before.",
)
AFTER = ["1", "2", "4", "8"]
MOMENTS = {
    "without training": lambda row: max(row["before"], row.get("re_estimated", 0.0)),
    "after 8 epochs": lambda row: row.get("after", {}).get("8"),
}
Rows = list[dict[str, Any]]


def write_table(found: Path, results: Path) -> None:
    """Add the lines of all jobs in a folder to `pruning_peers.jsonl`, and write its table and figure (`.svg`, `.png`).

    A job's new line takes the place of an old one; a line of more epochs that of a line of fewer.
    """
    known, kept = results / "pruning_peers.jsonl", {}
    texts = known.read_text().splitlines() if known.is_file() else []
    for row in map(json.loads, texts + [file.read_text() for file in sorted(found.glob("*.json"))]):
        job = (row["case"], row["amount"], list(NAMES).index(row["method"]), row["seed"], row["epochs"] > 8)
        if job not in kept or "error" in kept[job] or row["epochs"] >= kept[job]["epochs"]:
            kept[job] = row
    rows = [kept[job] for job in sorted(kept)]
    done = [row for row in rows if "error" not in row]
    lines = [f"# Pruning at equal MACs\n\n{', '.join(sorted({row['device'] for row in done}))}\n"]
    for name, case in CASES.items():
        short = [row for row in done if row["case"] == name and row["epochs"] <= 8]
        if short:
            lines += [f"## {case.title}\nUnpruned: {_mean(short, 'unpruned')}\n", *_short(short), ""]
        long = [row for row in done if row["case"] == name and row["epochs"] > 8]
        if long:
            lines += [f"### Trained for {long[0]['epochs']} epochs\n", *_long(long), ""]
    errors = {(NAMES[row["method"]], CASES[row["case"]].title, row["error"]) for row in rows if "error" in row}
    lines += ["## Not measured", *LEFT_OUT]
    lines += [f"- {method}, {case}: {error}" for method, case, error in sorted(errors)]
    results.mkdir(exist_ok=True)
    known.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (results / "pruning_peers.md").write_text("\n".join(lines).rstrip() + "\n")
    _draw([row for row in done if row["epochs"] <= 8], results)


def _groups(rows: Rows) -> list[Rows]:
    """Return the rows of each amount and method, which differ in their seed, in the order of the table."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["amount"], list(NAMES).index(row["method"])].append(row)
    return [groups[key] for key in sorted(groups)]


def _short(rows: Rows) -> list[str]:
    columns = ["MACs", "method", "before training", "norms re-estimated", *map(_epochs, AFTER), "pruning", "on"]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for group in _groups(rows):
        after = [_mean([row.get("after", {}) for row in group], epoch) for epoch in AFTER]
        cells = [f"{100 * group[0]['macs']:.1f} %", NAMES[group[0]["method"]], _mean(group, "before")]
        cells += [_mean(group, "re_estimated"), *after, f"{statistics.mean(row['seconds'] for row in group):.0f} s"]
        cells.append(group[0]["device"])
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _long(rows: Rows) -> list[str]:
    epochs = list(rows[0]["after"])
    columns = ["MACs", "method", "before training", *map(_epochs, epochs)]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    for group in _groups(rows):
        cells = [f"{100 * group[0]['macs']:.1f} %", NAMES[group[0]["method"]], _mean(group, "before")]
        cells += [_mean([row["after"] for row in group], epoch) for epoch in epochs]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _epochs(number: str) -> str:
    return "1 epoch" if number == "1" else f"{number} epochs"


def _mean(rows: Rows, key: str) -> str:
    values = [100 * row[key] for row in rows if key in row]
    return f"{statistics.mean(values):.2f} %" if values else ""


def _draw(rows: Rows, results: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cases = [name for name in CASES if any(row["case"] == name for row in rows)]
    figure, axes = pyplot.subplots(2, len(cases), figsize=(5 * len(cases), 7), squeeze=False)
    shown: dict[str, Any] = {}
    for column, name in enumerate(cases):
        for axis, (words, of) in zip(axes[:, column], MOMENTS.items(), strict=True):
            of_case = [row for row in rows if row["case"] == name]
            for number, method in enumerate(NAMES):
                line = [group for group in _groups(of_case) if group[0]["method"] == method]
                points = [
                    (100 * group[0]["macs"], 100 * statistics.mean(values))
                    for group in line
                    if (values := [value for row in group if (value := of(row)) is not None])
                ]
                if points:
                    style = {"marker": "o", "color": f"C{number}", "linewidth": 2.5 if method == "ours" else 1.2}
                    (shown[NAMES[method]],) = axis.plot(*zip(*points, strict=True), **style)
            axis.set_visible(bool(axis.lines))
            axis.axhline(100 * of_case[0]["unpruned"], color="grey", linestyle=":", linewidth=1)
            axis.set_title(f"{CASES[name].title}\n{words}", fontsize=9)
            axis.set_xlabel("MACs left, %")
            axis.set_ylabel("accuracy, %")
            axis.grid(alpha=0.3)
    figure.legend(shown.values(), shown.keys(), loc="lower right", fontsize=9)
    figure.tight_layout()
    for suffix in ("svg", "png"):
        figure.savefig(results / f"pruning_peers.{suffix}", dpi=150)
