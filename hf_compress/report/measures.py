"""What was measured, in the words and units of every table, page and figure."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any

from hf_compress.measure.intervals import difference, with_range
from hf_compress.report.markdown import one_line
from hf_compress.tasks import known_metrics

CONTROL = "control"  # what the row is called of the student that learnt from the labels alone


def control_of(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the row of a run's control, or nothing."""
    return [report["control"]] if "control" in report else []


@dataclass(frozen=True)
class Measure:
    """One line of the tables.

    Attributes:
        heading: what is measured.
        path: where it stands in a row of the report.
        show: writes a value.
        less: what fewer or lower is called (`fewer`, `faster`); None for a quality, which is compared by difference.
        metric: the name of a quality in the report.
    """

    heading: str
    path: tuple[str, ...]
    show: Callable[[float], str]
    less: str | None = None
    metric: str | None = None

    def of(self, row: dict[str, Any]) -> float | None:
        try:
            return reduce(getitem, self.path, row)
        except KeyError:
            return None

    @property
    def higher_is_better(self) -> bool:
        """Of a quality."""
        metric = known_metrics().get(self.metric)
        return metric is None or metric.higher_is_better

    def text(self, row: dict[str, Any]) -> str:
        value = self.of(row)
        return "" if value is None else self.show(value)

    def change(self, before: dict[str, Any], after: dict[str, Any]) -> str:
        """Say how `after` compares: a ratio for costs, a difference for qualities, in points with its interval."""
        old, new = self.of(before), self.of(after)
        if old is None or new is None:
            return ""
        if entry := difference(after, self.metric, before["stage"]):
            return with_range(entry)
        if self.less is None:
            return f"{new - old:+.4f}"
        sure = self.speedup(before, after)
        return ratio(old, new, self.less) + (f" ({times_in_words(sure)})" if sure else "")

    def speedup(self, before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any] | None:
        """Return the `speedup` of a latency against `before`, see `docs/report.md`; None where there is none."""
        if self.path[-1] != "p50_ms" or self.of(after) is None:
            return None
        found = reduce(getitem, self.path[:-1], after).get("speedup")
        return found if found and found["against"] == before["stage"] else None


def measures(report: dict[str, Any]) -> list[Measure]:
    """Return everything that was measured in a run, in the order of the tables."""
    rows = report["rows"]
    qualities = dict.fromkeys(key for row in rows for key in row["quality"])
    timed = dict.fromkeys((name, batch) for row in rows for name, found in latencies(row).items() for batch in found)
    found = [
        *(Measure(quality_name(key), ("quality", key), four_digits, metric=key) for key in qualities),
        Measure("calibration error", ("reliability", "expected_calibration_error"), four_digits),
        Measure("parameters", ("cost", "parameters"), in_thousands, "fewer"),
        Measure("non-zero parameters", ("cost", "nonzero_parameters"), in_thousands, "fewer"),
        Measure("MACs", ("cost", "macs"), in_thousands, "fewer"),
        Measure("size on disk", ("cost", "bytes"), size, "less"),
        *(_latency(runtime, batch, quantile) for runtime, batch in timed for quantile in ("p50", "p95")),
        Measure("peak memory, one image", ("cost", "peak_memory_bytes"), size, "less"),
    ]
    return [measure for measure in found if any(measure.of(row) is not None for row in rows)]


def _latency(runtime: str, batch: str, quantile: str) -> Measure:
    place = ("latency",) if runtime == "eager" else ("runtimes", runtime)
    path = (*place, batch, f"{quantile}_ms")
    return Measure(latency_name(batch, quantile, runtime), path, milliseconds, "faster")


def latencies(row: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the latencies of a row by runtime."""
    return {"eager": row.get("latency", {}), **row.get("runtimes", {})}


def quality_name(key: str) -> str:
    known = known_metrics()
    return known[key].words if key in known else one_line(key).replace("_", " ")


def latency_name(batch: str, quantile: str = "p50", runtime: str = "eager") -> str:
    """Return `batch_8`, a quantile and a runtime as words."""
    images = "one image" if batch == "batch_1" else batch.replace("_", " of ")
    return f"latency{'' if runtime == 'eager' else f' with {one_line(runtime)}'}, {images}, {quantile}"


def ratio(old: float, new: float, less: str) -> str:
    """Return `4.0x fewer`, `1.2x more`, or `same`."""
    if not old or not new:
        return ""
    more = "slower" if less == "faster" else "more"
    factor, word = (old / new, less) if old >= new else (new / old, more)
    return "same" if f"{factor:.2f}" == "1.00" else f"{factor:.2f}x {word}" if factor < 2 else f"{factor:.1f}x {word}"


def times_in_words(speedup: dict[str, float]) -> str:
    """Write the interval of a ratio as `ratio` tells it: `1.9 to 2.3`, also where it is `2.1x slower`."""
    middle, low, high = (speedup[key] for key in ("ratio", "low", "high"))
    if middle < 1:
        middle, low, high = 1 / middle, 1 / high, 1 / low
    digits = 2 if middle < 2 else 1
    return f"{low:.{digits}f} to {high:.{digits}f}"


def in_thousands(value: float) -> str:
    """Write a large number in thousands, millions or billions."""
    for limit, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.2f} {unit}"
    return f"{value:.0f}"


def size(value: float) -> str:
    return f"{value / 1e6:.2f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"


def four_digits(value: float) -> str:
    return f"{value:.4f}"


def milliseconds(value: float) -> str:
    return f"{value:.2f} ms"
