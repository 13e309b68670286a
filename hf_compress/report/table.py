"""The report as tables for the terminal: of its stages, and of its deployed files."""

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from hf_compress.measure.intervals import difference, range_in_words, unit
from hf_compress.report.front import front_table
from hf_compress.report.limits import busy
from hf_compress.report.measures import CONTROL, Measure, control_of, measures, ratio

WRAPPED = ("", "what", "latency")  # columns of a search whose cells may take several lines


def report_table(report: dict[str, Any]) -> Table:
    """Return one column a stage and one for the control, with the change against the first that has it behind a cost.

    Under a quality that has them lie the 95 % intervals of its differences, under a latency those of its ratio.
    """
    rows = [*report["rows"], *control_of(report)]
    table = Table(title="Test images", title_justify="left", caption_justify="left")
    table.add_column("", overflow="fold")
    for row in rows:
        table.add_column(row["stage"], justify="right", overflow="fold")
    for measure in measures(report):
        table.add_row(measure.heading, *(_cell(measure, row, rows) for row in rows))
        surely = [measure.speedup(rows[0], row) for row in rows]
        if any(surely):
            table.add_row(f" times as fast as {rows[0]['stage']}", *map(_times, surely))
        if measure.metric is not None:
            for heading, cells in _differences(rows, measure.metric):
                table.add_row(heading, *cells)
    told = [sentence for key in ("remarks", "not_deployed", "not_run") for sentence in report.get(key, [])]
    table.caption = "\n".join([*told, *busy(report)]) or None
    return table


def _cell(measure: Measure, row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    first = next(row for row in rows if measure.of(row) is not None)
    known = measure.less is not None and measure.of(row) is not None
    change = ratio(measure.of(first), measure.of(row), measure.less) if known else ""
    return measure.text(row) + ("" if change in ("", "same") else f" ({change})")


def _times(speedup: dict[str, Any] | None) -> str:
    return "" if speedup is None else f"{speedup['low']:.2f} to {speedup['high']:.2f}"


def _differences(rows: list[dict[str, Any]], metric: str) -> Iterator[tuple[str, list[str]]]:
    """Give the 95 % intervals of a metric's differences from the first stage, the stage before, and the control."""
    first, *stages = [row["stage"] for row in rows]
    against_first = [difference(row, metric, first) for row in rows]
    against_before = [difference(row, metric, stage) for row, stage in zip(rows[2:], stages, strict=False)]
    against = {first: against_first, "the stage before": [None, None, *against_before]}
    against["the control"] = [difference(row, metric, CONTROL) for row in rows]
    for heading, entries in against.items():
        if any(entries):
            cells = ["" if entry is None else range_in_words(entry) for entry in entries]
            yield f" {unit(metric)} against {heading}", cells


def evaluation_table(found: dict[str, Any]) -> Table:
    """Return one line a measure of what `tools.evaluation` found."""
    table = Table(show_header=False)
    for measure in measures({"rows": [found]}):
        table.add_row(measure.heading, measure.text(found))
    return table


def deployed_table(rows: list[dict[str, Any]]) -> Table:
    """Return one column a file: size, how far it is from PyTorch, quality, and latency against PyTorch's."""
    table = Table(title="Deployed, checked on test images", title_justify="left")
    table.add_column("", overflow="fold")
    for row in rows:
        table.add_column(row["stage"], justify="right", overflow="fold")

    def line(heading: str, cells: list[str]) -> None:
        if any(cells):
            table.add_row(heading, *cells)

    def shown(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    line("file", [row["file"] for row in rows])
    line("size", [f"{row['cost']['bytes'] / 1e6:.2f} MB" for row in rows])
    for output in dict.fromkeys(name for row in rows for name in row["max_difference"]):
        line(f"largest difference of {output}", [f"{row['max_difference'][output]:.2g}" for row in rows])
    line("same class as PyTorch", [shown(row.get("top1_agreement"), ".2%") for row in rows])
    for key in dict.fromkeys(key for row in rows for key in row["quality"]):
        line(key.replace("_", " "), [shown(row["quality"].get(key), ".4f") for row in rows])
        line(f" {unit(key)} against PyTorch", [_range(row, key) for row in rows])
    for batch in dict.fromkeys(batch for row in rows for batch in row["latency"]):
        for quantile in ("p50_ms", "p95_ms"):
            heading = f"{batch.replace('_', ' ')}, {quantile.removesuffix('_ms')} (against PyTorch)"
            line(heading, [_against_eager(row, batch, quantile) for row in rows])
            if quantile == "p50_ms":
                surely = [row["latency"].get(batch, {}).get("speedup") for row in rows]
                line(" times as fast as PyTorch", list(map(_times, surely)))
    return table


def _range(row: dict[str, Any], metric: str) -> str:
    return next((range_in_words(entry) for entry in row.get("differences", []) if entry["metric"] == metric), "")


def _against_eager(row: dict[str, Any], batch: str, quantile: str) -> str:
    if batch not in row["latency"]:
        return ""
    own, eager = (row[key][batch][quantile] for key in ("latency", "eager_latency"))
    return f"{own:.2f} ms ({eager / own:.2f}x)"


def search_table(report: dict[str, Any]) -> Table:
    """Return one row for each model that a search found and no other beats."""
    headings, rows = front_table(report)
    table = Table(
        title="Found, on validation images",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for number, heading in enumerate(headings):
        if heading in WRAPPED:
            table.add_column(heading, justify="right" if number > 1 else "left", overflow="fold")
        else:
            table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table
