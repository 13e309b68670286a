"""The results of a study as plain values, and as a table."""

import csv
import io
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.table import Table

from hf_compress.ground.environment import environment
from hf_compress.report.markdown import escaped
from hf_compress.report.measures import (
    CONTROL,
    control_of,
    four_digits,
    in_thousands,
    latency_name,
    milliseconds,
    quality_name,
)
from hf_compress.study.config import Study, run_folder

COSTS = ("parameters", "macs")
AGAINST_CONTROL = "against_control"


def study_report(
    study: Study, finished: dict[tuple[str, int], dict[str, Any]], folder: Path, latencies: dict[str, dict] | None
) -> dict[str, Any]:
    """Put the reports of runs together.

    Args:
        finished: reports by run and seed; a run is judged by the last row of its report, its final model.
        latencies: by run, all measured in turn.

    Returns:
        `kind` (`study`), `created`, `seeds`, `rows` (one a run: `run`, `label`, `needs`, `seeds` that are finished,
        `quality` with `mean`, sample standard deviation `std` and `values`, `cost`, `latency`; with a control also its
        quality, `control`, and that of run minus control seed by seed, `against_control`), `runs` (one a run and
        seed: `folder`, `quality`, `control`, `best_epoch`, `seconds`), `data`, `training`, `environment`.
    """
    latencies = latencies or {}
    first = next(iter(finished.values()))
    return {
        "kind": "study",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seeds": study.seeds,
        "rows": [
            _row(study, name, finished) | ({"latency": latencies[name]} if name in latencies else {})
            for name in study.runs
        ],
        "runs": [
            {
                "run": name,
                "seed": seed,
                "folder": run_folder(folder, name, seed).name,
                "quality": report["rows"][-1]["quality"],
                **({CONTROL: report[CONTROL]["quality"]} if CONTROL in report else {}),
                "best_epoch": report["rows"][-1].get("details", {}).get("best_epoch"),
                "seconds": report["seconds"],
            }
            for name in study.runs
            for seed in study.seeds
            if (report := finished.get((name, seed)))
        ],
        "data": first["data"],
        "training": study.training.model_dump(),
        "measure": first["measure"],
        "environment": environment(),
    }


def _row(study: Study, name: str, finished: dict[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    seeds = [seed for seed in study.seeds if (name, seed) in finished]
    last = [finished[name, seed]["rows"][-1] for seed in seeds]
    keys = dict.fromkeys(key for row in last for key in row["quality"])
    return {
        "run": name,
        "label": study.label(name),
        "needs": study.needs(name),
        "seeds": seeds,
        "quality": {key: _spread([row["quality"][key] for row in last if key in row["quality"]]) for key in keys},
        "cost": {key: mean(row["cost"][key] for row in last) for key in COSTS} if last else {},
        **_against_control([finished[name, seed] for seed in seeds]),
    }


def _against_control(reports: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return `control` and `against_control` of a row, by metric; nothing where no run has a control."""
    pairs = [(report["rows"][-1]["quality"], row["quality"]) for report in reports for row in control_of(report)]
    found: dict[str, dict[str, Any]] = {}
    for key in dict.fromkeys(key for run, control in pairs for key in run if key in control):
        both = [(run[key], control[key]) for run, control in pairs if key in run and key in control]
        found.setdefault(CONTROL, {})[key] = _spread([control for _, control in both])
        found.setdefault(AGAINST_CONTROL, {})[key] = _spread([run - control for run, control in both])
    return found


def _spread(values: list[float]) -> dict[str, Any]:
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "values": values}


def cells(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the table as text: qualities as mean ± standard deviation.

    Below a run with a control stand that, and their difference.
    """
    keys = _qualities(report)
    batches = _batches(report)
    headings = ["", *map(quality_name, keys), "parameters", "MACs", *map(latency_name, batches), "seeds"]
    rows = []
    for row in report["rows"]:
        rows.append(
            [
                row["label"],
                *(_quality(row["quality"].get(key)) for key in keys),
                *(in_thousands(row["cost"][key]) if row["cost"] else "" for key in COSTS),
                *(milliseconds(row["latency"][batch]["p50_ms"]) for batch in batches),
                str(len(row["seeds"])),
            ]
        )
        for name, sign in ((CONTROL, ""), (AGAINST_CONTROL, "+")):
            if found := row.get(name):
                seeds = max(len(value["values"]) for value in found.values())
                nothing = [""] * (len(COSTS) + len(batches))
                qualities = [_quality(found.get(key), sign) for key in keys]
                rows.append([f"{row['label']}, {name.replace('_', ' ')}", *qualities, *nothing, str(seeds)])
    return headings, rows


def run_rows(report: dict[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return headings, and folder and text of one row a run and seed, and one below it for its control."""
    keys = _qualities(report)
    labels = {row["run"]: row["label"] for row in report["rows"]}
    rows = []
    for run in report["runs"]:
        label, seed = labels[run["run"]], str(run["seed"])
        others = [str("" if run["best_epoch"] is None else run["best_epoch"]), f"{run['seconds'] / 60:.1f}"]
        rows.append((run["folder"], [label, seed, *_digits(run["quality"], keys), *others]))
        if CONTROL in run:
            rows.append((run["folder"], [f"{label}, {CONTROL}", seed, *_digits(run[CONTROL], keys), "", ""]))
    return ["run", "seed", *map(quality_name, keys), "best epoch", "minutes"], rows


def markdown_table(report: dict[str, Any]) -> str:
    """Return the table in Markdown."""
    headings, rows = cells(report)
    lines = [headings, ["---", *["--:"] * (len(headings) - 1)], *([escaped(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def terminal_table(report: dict[str, Any]) -> Table:
    """Return the table for the terminal."""
    headings, rows = cells(report)
    table = Table(title="Test images", title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def csv_table(report: dict[str, Any]) -> str:
    """Return the table as CSV, in full precision."""
    table = [
        {
            "run": row["run"],
            "label": row["label"],
            "seeds": len(row["seeds"]),
            **_columns("", row["quality"]),
            **_columns(f"{CONTROL}_", row.get(CONTROL, {})),
            **_columns(f"{AGAINST_CONTROL}_", row.get(AGAINST_CONTROL, {})),
            **row["cost"],
            **{f"latency_{batch}_p50_ms": row["latency"][batch]["p50_ms"] for batch in _batches(report)},
        }
        for row in report["rows"]
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, dict.fromkeys(key for row in table for key in row), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def _qualities(report: dict[str, Any]) -> list[str]:
    return list(dict.fromkeys(key for row in report["rows"] for key in row["quality"]))


def _batches(report: dict[str, Any]) -> list[str]:
    """Return the batch sizes whose latency was measured, which all rows have or none."""
    return list(report["rows"][0].get("latency", {}))


def _digits(quality: dict[str, float], keys: list[str]) -> list[str]:
    return [four_digits(quality[key]) if key in quality else "" for key in keys]


def _columns(prefix: str, found: dict[str, dict[str, Any]]) -> dict[str, float | None]:
    return {f"{prefix}{key}_{part}": value[part] for key, value in found.items() for part in ("mean", "std")}


def _quality(value: dict[str, Any] | None, sign: str = "") -> str:
    if value is None:
        return ""
    return f"{value['mean']:{sign}.4f}" + ("" if value["std"] is None else f" ± {four_digits(value['std'])}")
