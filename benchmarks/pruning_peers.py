"""Pruning: accuracy at equal multiply-accumulates, against torch-pruning and NVIDIA's ModelOpt.

    python benchmarks/pruning_peers.py --case mobilenet --amount 0.4 --method ours --seed 0 --out DIR    # one job
    python benchmarks/pruning_peers.py --all --epochs 0 --out DIR                               # all, without training
    python benchmarks/pruning_peers.py --all --case resnet56 --jobs 4 --minutes 10 --out DIR            # one model's
    python benchmarks/pruning_peers.py --table DIR                                # table and figure of what is there

All methods prune the same model to the same multiply-accumulates (within 1 %, by this package's counter), and the same
loop trains what they leave: see `pruning_recovery.py`. Every job writes one file of one JSON line; a job that has its
file is skipped, one that fails writes its error. Methods that are not installed fail with that error.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import multiprocessing
import os
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pruning_cases import CASES, Material, material, prepare
from pruning_methods import METHODS
from pruning_recovery import accuracy, placed, recover
from pruning_table import write_table

from hf_compress.ground.processor import device_name
from hf_compress.measure.cost import count_macs, count_parameters
from hf_compress.models.folding import restate_batch_norms
from hf_compress.training.batch_norms import has_batch_norms

LOOKED_AT = [1, 2, 4, 8, 16, 32, 60]
QUICK = 32  # images
LEFT_OUT = ("unpruned", "ours-3", "tp-l1-layer")  # where no method is named


@dataclass(frozen=True)
class Job:
    case: str
    amount: float
    method: str
    epochs: int = 8
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.case}-{self.amount:.3f}-{self.method}-{self.epochs}-{self.seed}"


def queue(arguments: argparse.Namespace) -> list[Job]:
    """Return the jobs of every case, amount and method, or of those that the arguments name."""
    wanted = [arguments.method] if arguments.method else [name for name in METHODS if name not in LEFT_OUT]
    return [
        Job(name, amount, method, arguments.epochs, arguments.seed)
        for name, case in CASES.items()
        if arguments.case in (None, name)
        for amount in case.amounts
        if arguments.amount is None or math.isclose(amount, arguments.amount, abs_tol=1e-3)
        for method in wanted
    ]


def run(job: Job, shared: Path, out: Path, quick: bool, device: torch.device) -> dict[str, Any]:
    """Prune and train, and return what came of it."""
    torch.backends.cudnn.allow_tf32 = False  # training is in bf16, all else in float32
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(job.seed)
    given = material(CASES[job.case], shared, out, QUICK if quick else None, device)
    batches = given.normalise(given.calibration.pixels).split(64)
    restate_batch_norms(given.model.to(device), batches)
    given.model.cpu()
    begun = time.perf_counter()
    pruned = METHODS[job.method](given, job.amount)
    seconds = time.perf_counter() - begun
    whole, small = (placed(given, copy.deepcopy(model)) for model in (given.model, pruned))
    row = {
        **vars(job),
        "epochs": min(1, job.epochs) if quick else job.epochs,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else _processor(),
        "macs": count_macs(pruned, given.image) / count_macs(given.model, given.image),
        "parameters": count_parameters(pruned) / count_parameters(given.model),
        "seconds": seconds,
        "unpruned": _unpruned(given, whole, out),
        "before": accuracy(given, small, given.test),
        "held_out_before": accuracy(given, small, given.held_out),
    }
    if has_batch_norms(small):
        torch.optim.swa_utils.update_bn(batches, small)
        row["re_estimated"] = accuracy(given, small.eval(), given.test)
    if row["epochs"] == 0:
        return row
    begun = time.perf_counter()
    row |= recover(given, pruned, row["epochs"], job.seed, LOOKED_AT)
    return row | {"training": time.perf_counter() - begun}


def _processor() -> str:
    return f"{device_name()}, {os.cpu_count()} cores"


def _unpruned(given: Material, whole: torch.nn.Module, out: Path) -> float:
    """Return the whole model's accuracy, which the first job of a model writes down for all others."""
    file = out / f"{given.case.model}-{len(given.test)}.txt"
    if not file.is_file():
        partial = file.with_suffix(f".{os.getpid()}")  # another job may look for it meanwhile
        partial.write_text(str(accuracy(given, whole, given.test)))
        partial.replace(file)
    return float(file.read_text())


def work(job: Job, shared: Path, out: Path, quick: bool) -> None:
    """Write the one line of a job, or its error."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        row = run(job, shared, out, quick, device)
    except Exception as error:
        traceback.print_exc()
        row = vars(job) | {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]}
    (out / f"{job.name}.json").write_text(json.dumps(row) + "\n")
    print(json.dumps(row), flush=True)


def run_all(jobs: list[Job], arguments: argparse.Namespace) -> None:
    """Run the jobs that have no file yet, some at a time, until the time is over: processes that share the imports."""
    begun = time.monotonic()
    shared, out, quick = arguments.shared, arguments.out, arguments.quick
    new = multiprocessing.get_context("fork").Process  # nothing but imports has happened here: no threads, no GPU
    most = QUICK if quick else None
    cases = {job.case for job in jobs}
    prepared = [new(target=prepare, args=(CASES[case], shared, out, most)) for case in cases]
    for process in prepared:
        process.start()
    for process in prepared:
        process.join()
    waiting = [job for job in jobs if not (out / f"{job.name}.json").exists()]
    running: dict[Job, multiprocessing.Process] = {}
    while waiting or running:
        passed = time.monotonic() - begun
        for job in [job for job, process in running.items() if not process.is_alive()]:
            del running[job]
            print(f"{passed:.0f} s: {job.name}", flush=True)
        if passed > 60 * arguments.minutes:
            for job, process in running.items():
                process.terminate()
                print(f"{passed:.0f} s: no time left for {job.name}", flush=True)
            break
        while waiting and len(running) < arguments.jobs:
            job = waiting.pop(0)
            running[job] = new(target=_logged, args=(job, shared, out, quick, arguments.jobs))
            running[job].start()
        time.sleep(0.1)


def _logged(job: Job, shared: Path, out: Path, quick: bool, jobs: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    with open(out / f"{job.name}.log", "w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        work(job, shared, out, quick)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--amount", type=float, help="fraction of the multiply-accumulates that goes")
    parser.add_argument("--method", choices=METHODS)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("pruning-peers"))
    parser.add_argument("--shared", type=Path, default=Path("../shared"), help="holds models/ and data/")
    parser.add_argument("--all", action="store_true", help="run all jobs, or all of the case, amount or method named")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--quick", action="store_true", help="a try: few images, one epoch")
    parser.add_argument(
        "--table", type=Path, help="write the table and the figure of what lies here; with --quick, beside it"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    if arguments.table:
        write_table(arguments.table, arguments.table if arguments.quick else Path(__file__).parent / "results")
    elif arguments.all:
        run_all(queue(arguments), arguments)
    else:
        job = Job(arguments.case, arguments.amount, arguments.method, arguments.epochs, arguments.seed)
        work(job, arguments.shared, arguments.out, arguments.quick)


if __name__ == "__main__":
    main()
