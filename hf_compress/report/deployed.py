"""The deployed files of a run: which is the one to take, and why."""

from pathlib import PurePosixPath
from typing import Any

from hf_compress.device.script import packages
from hf_compress.measure.intervals import unit
from hf_compress.report.measures import milliseconds, ratio, size, times_in_words
from hf_compress.tasks import Metric, task_of
from hf_compress.tasks.base import AGREEMENT

LOSS = 0.01  # of the deciding metric
AS_FAST = 1.05


def judged_by(report: dict[str, Any]) -> Metric:
    """Return the metric that decides in a run: without labels, the agreement with the teacher."""
    return task_of(report).judged_by(AGREEMENT in report["rows"][-1]["quality"])


def recommended(report: dict[str, Any]) -> dict[str, Any] | None:
    """Return the row of the file to take, or None.

    Of the files that lose at most a hundredth of the deciding metric against the final model in PyTorch, the one that
    is fastest with one image; among those that take at most 5 % longer than that, the smallest.
    """
    good = [row for row in report.get("deployed", []) if _loss(row, report) <= LOSS]
    if not good:
        return None
    limit = AS_FAST * min(_time(row) for row in good)
    return min((row for row in good if _time(row) <= limit), key=lambda row: (row["cost"]["bytes"], row["file"]))


def recommendation(report: dict[str, Any]) -> list[str]:
    """Say in a sentence which file to take, and why; nothing where none was deployed."""
    files, chosen, metric = report.get("deployed", []), recommended(report), judged_by(report)
    most = f"{100 * LOSS:g} point" if unit(metric.name) else f"{LOSS:g}"
    if not files:
        return []
    if chosen is None:
        return [f"No deployed file is recommended: none is known to lose at most {most} of {metric.words}."]
    why = f"the fastest of {len(files)} files among those that lose" if len(files) > 1 else "which loses"
    own, eager = (chosen[key]["batch_1"]["p50_ms"] for key in ("latency", "eager_latency"))
    sure = chosen["latency"]["batch_1"].get("speedup")
    alone = "" if "torch" in packages(chosen["runtime"]) else " without PyTorch"
    faster = f", {ratio(eager, own, 'faster')} ({times_in_words(sure)})" if sure else ""
    return [
        f"For the device, take {chosen['file']} ({chosen['stage']}), {why} at most {most} of "
        f"{metric.words}: {size(chosen['cost']['bytes'])}, and {milliseconds(own)} for one image, for "
        f"which PyTorch takes {milliseconds(eager)}{faster}."
        + (f" {chosen['script']} uses it{alone}." if "script" in chosen else "")
    ]


def commands(report: dict[str, Any], repo_id: str | None) -> str | None:
    """Return what to type so that a deployed file says what is on `photo.jpg`, by the script beside it.

    It is the recommended file, else the first one with a script; None where no file has one. With `repo_id` the files
    are downloaded first, else the commands run inside the folder.
    """
    rows = [row for row in [recommended(report), *report.get("deployed", [])] if row and "script" in row]
    if not rows:
        return None
    row, script = rows[0], PurePosixPath(rows[0]["script"])
    download, installed = [], packages(row["runtime"])
    if repo_id:
        place = repo_id.rpartition("/")[2]
        download = [f"hf download {repo_id} --include '{script.parent}/*' --local-dir {place}"]
        installed, script = ["huggingface_hub", *installed], place / script
    return "\n".join([f"pip install {' '.join(installed)}", *download, f"python {script} photo.jpg"])


def _loss(row: dict[str, Any], report: dict[str, Any]) -> float:
    """Return what a file loses of the deciding metric; without it, floats lose nothing, and int8 nobody knows."""
    metric, last = judged_by(report), report["rows"][-1]["quality"]
    if metric.name not in row["quality"] or metric.name not in last:
        return 0.0 if row["precision"] == "float32" else float("inf")
    return metric.lost(row["quality"][metric.name], last[metric.name])


def _time(row: dict[str, Any]) -> float:
    return row["latency"]["batch_1"]["p50_ms"]
