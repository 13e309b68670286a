"""Runs a recipe or a search, kills it with SIGKILL at random moments, resumes it each time, compares what comes out.

    python kill_chain.py recipe|search FOLDER KILLS SEED

Every run is a process of its own, forked from this one, which has imported all modules: so it starts at once. Prints
one line of JSON.
"""

import contextlib
import hashlib
import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

TINY = {"model": "resnet18", "width": 0.125, "image_size": 16}
TRAINING = {"epochs": 2, "learning_rate": 3e-3}
HINTS = {"loss": "hints", "weight": 0.1, "layers": {"resnet.encoder.stages.0": "resnet.encoder.stages.1"}}
DATA = {"train": "train[:96]", "validation": "train[300:350]", "test": "train[400:450]"}
RECIPE = {
    "teacher": {**TINY, "finetune": TRAINING},
    "assistants": [TINY],
    "student": TINY,
    "data": {
        "path": "digits",
        "augmentation": "light",
        "mixup": 0.5,
        "splits": DATA,
    },
    "steps": [
        {"distill": {**TRAINING, "losses": [{"loss": "mse"}, HINTS]}},
        {"prune": {"amount": 0.45, "max_drop": 1.0, "recovery": {**TRAINING, "epochs": 1, "loss": "mse_ce"}}},
        {
            "prune": {
                "granularity": "weight",
                "importance": "random",
                "amount": 0.5,
                "iterative": False,
                "recovery": {**TRAINING, "epochs": 1},
            }
        },
    ],
    "measure": {"batch_size": 2, "repeats": 3},
}
SEARCH = {
    "wish": {"parameters": 150_000},
    "minutes": 60,
    "candidates": 4,
    "space": {
        "macs": [0.0, 0.5],
        "importance": ["l1"],
        "blocks": [0.0],
        "width": [1.0, 0.5],
        "image_size": [1.0],
        "int8": [False, True],
        "students": [{"model": "resnet18", "width": 0.0625}],
    },
    "overrides": {
        "data.splits": DATA,
        "measure": {"batch_size": 2, "repeats": 3},
        "teacher.width": 0.125,
        "teacher.image_size": 16,
        "teacher.finetune": TRAINING,
    },
}
MANIFEST = "hf_compress_manifest.json"  # holds the digests of these files
IMPORTED = "imported"
TIMES = {"created", "seconds", "latency", "remarks", "other_cores", "latency_ms", "teacher_ms"}


def work(kind: str, output: Path) -> None:
    """Do what is killed, or go on with it."""
    if kind == "search":
        from hf_compress.auto import running, students
        from hf_compress.auto.request import Request

        running.EPOCHS, students.IMAGES = 2, 200  # short trainings, and many moments between them
        running.find_best(Request.of("resnet18", "digits", **SEARCH), output, resume=True)
    else:
        from hf_compress import Recipe, compress

        compress(Recipe.from_dict(RECIPE), output, resume=True)


def run(kind: str, output: Path, log: Path, delay: float | None = None) -> int | None:
    """Work in a process; return its exit status, or None when it was killed after `delay`."""
    pid = os.fork()
    if pid == 0:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        try:
            work(kind, output)
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        output.with_name(IMPORTED).write_text("\n".join(sys.modules))
        os._exit(0)
    end = float("inf") if delay is None else time.monotonic() + delay
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


def without_times(node):
    if isinstance(node, dict):
        return {key: without_times(value) for key, value in node.items() if key not in TIMES}
    return [without_times(item) for item in node] if isinstance(node, list) else node


def outcome(kind: str, output: Path) -> dict:
    """Return what must be the same: the files by name, and the report without times.

    Recipes of a search name the minutes that were left for a training.
    """
    report = json.loads((output / "report.json").read_text())
    if kind == "search":
        weights = hashlib.sha256((output / "model.safetensors").read_bytes()).hexdigest()
        return {"weights": weights, **without_times(report["search"])}
    files = {
        file.relative_to(output).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(output.rglob("*"))
        if file.is_file() and file.name not in {"report.json", "README.md", "latency.png", MANIFEST}
    }
    return {"files": files, "report": without_times(report)}


def chain(kind: str, folder: Path, kills: int, seed: int) -> dict:
    """Kill and resume until `kills` processes have been killed and the last run is finished; return what came out."""
    log = folder / "log"
    started = time.monotonic()
    if run(kind, folder / "whole", log):
        sys.exit(log.read_text())
    whole = time.monotonic() - started
    for name in (folder / IMPORTED).read_text().split():  # every run would spend most of its life on this
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    expected = outcome(kind, folder / "whole")
    chance = random.Random(seed)
    moments: list[float] = []
    runs, differing = 0, []
    while len(moments) < kills or (folder / "killed.partial").exists():
        # the first run has imported what the others find: half of its time is a whole one of theirs
        delay = chance.uniform(0, whole / 4) if len(moments) < kills else None
        status = run(kind, folder / "killed", log, delay)
        if status is None:
            moments.append(round(delay, 2))
        elif status:
            sys.exit(log.read_text())
        else:
            found = outcome(kind, folder / "killed")
            differing += [key for key in expected if found[key] != expected[key]]
            runs += 1
            (folder / "killed").rename(folder / f"run-{runs}")
    leftovers = [path.name for path in folder.glob("*.partial")]
    return {"kills": len(moments), "moments": moments, "runs": runs, "differing": differing, "leftovers": leftovers}


if __name__ == "__main__":
    import matplotlib.figure  # noqa: F401

    import hf_compress.run.pipeline
    import hf_compress.steps.pruning.loop  # noqa: F401

    print(json.dumps(chain(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))))
