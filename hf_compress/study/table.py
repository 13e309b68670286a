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
from hf_compress.report.measures import four_digits, in_thousands, latency_name, milliseconds, quality_name
from hf_compress.study.config import Study, run_folder

COSTS = ("parameters", "macs")


def study_report(
    study: Study, finished: dict[tuple[str, int], dict[str, Any]], folder: Path, latencies: dict[str, dict] | None
) -> dict[str, Any]:
    """Put the reports of runs together.

    Args:
        finished: reports by run and seed; a run is judged by the last row of its report, its final model.
        latencies: by run, all measured in turn.

    Returns:
        `kind` (`study`), `created`, `seeds`, `rows` (one a run: `run`, `label`, `needs`, `seeds` that are finished,
        `quality` with `mean`, sample standard deviation `std` and `values`, `cost`, `latency`), `runs` (one a run and
        seed: `folder`, `quality`, `best_epoch`, `seconds`), `data`, `training`, `environment`.
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
    }


def _spread(values: list[float]) -> dict[str, Any]:
    return {"mean": mean(values), "std": stdev(values) if len(values) > 1 else None, "values": values}


def cells(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows of the table as text: qualities as mean ± standard deviation."""
    keys = _qualities(report)
    batches = _batches(report)
    headings = ["", *map(quality_name, keys), "parameters", "MACs", *map(latency_name, batches), "seeds"]
    rows = [
        [
            row["label"],
            *(_quality(row["quality"].get(key)) for key in keys),
            *(in_thousands(row["cost"][key]) if row["cost"] else "" for key in COSTS),
            *(milliseconds(row["latency"][batch]["p50_ms"]) for batch in batches),
            str(len(row["seeds"])),
        ]
        for row in report["rows"]
    ]
    return headings, rows


def run_rows(report: dict[str, Any]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return headings, and folder and text of one row a run and seed."""
    keys = _qualities(report)
    labels = {row["run"]: row["label"] for row in report["rows"]}
    rows = [
        (
            run["folder"],
            [
                labels[run["run"]],
                str(run["seed"]),
                *(four_digits(run["quality"][key]) if key in run["quality"] else "" for key in keys),
                str(run["best_epoch"] or ""),
                f"{run['seconds'] / 60:.1f}",
            ],
        )
        for run in report["runs"]
    ]
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
        table.add_column(heading, justify="right" if number else "left")
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
            **{f"{key}_{part}": value[part] for key, value in row["quality"].items() for part in ("mean", "std")},
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


def _quality(value: dict[str, Any] | None) -> str:
    if value is None:
        return ""
    return four_digits(value["mean"]) + ("" if value["std"] is None else f" ± {four_digits(value['std'])}")
