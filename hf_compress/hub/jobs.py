"""A run on a machine that the Hub rents out (Jobs): what it may cost, its start, and its log until it ends."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2
from huggingface_hub import HfApi, JobHardwareInfo, JobInfo, JobStage, Volume, constants, get_token
from huggingface_hub._jobs_api import DEFAULT_UV_IMAGE
from huggingface_hub.errors import HfHubHTTPError

from hf_compress.ground.errors import Interrupted, RunError, UsageError, shown
from hf_compress.ground.hub_failures import patiently, redacted, status_of
from hf_compress.ground.registry import did_you_mean

LABEL, RECIPE, KEPT = "hf-compress-recipe", "HF_COMPRESS_RECIPE", "HF_COMPRESS_KEPT"
BUCKET, MOUNTED = "hf-compress-jobs", "/kept"
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MINUTE = 60
GOING = (JobStage.SCHEDULING, JobStage.RUNNING)


@dataclass(frozen=True)
class Rental:
    """A job that may be started.

    Attributes:
        recipe: YAML, with all that the run reads on the Hub; its section `publish` says where the result goes.
        to: that repository.
        machine: what is rented.
        seconds: when the machine is taken away, finished or not.
        package: what is installed there, as pip names it.
        words: options of `hf-compress run` there.
    """

    recipe: str
    to: str
    machine: JobHardwareInfo
    seconds: int
    package: str
    words: tuple[str, ...] = ()

    @property
    def dollars(self) -> float | None:
        """The most that it costs, as begun minutes are paid for; None where the price is not by the minute."""
        by_minute = self.machine.unit_label == "minute"
        return math.ceil(self.seconds / MINUTE) * self.machine.unit_cost_usd if by_minute else None

    @property
    def command(self) -> list[str]:
        """Installs the package, writes the recipe to a file, and runs it, with a process for each of several GPUs.

        What an earlier job has done is gone on with, and what this one does is kept for a later one.
        """
        several = self.processes > 1
        program = (
            f"torchrun --standalone --nproc-per-node {self.processes} -m hf_compress" if several else "hf-compress"
        )
        keeping = f'python -m hf_compress.hub.keeping work "${KEPT}"'
        run = " ".join([keeping, program, "run recipe.yaml --output work/run --publish --resume", *self.words])
        return ["uv", "run", "--with", self.package, "sh", "-c", f'printf %s "${RECIPE}" > recipe.yaml && exec {run}']

    @property
    def processes(self) -> int:
        return int(self.machine.accelerator.quantity) if self.machine.accelerator else 1

    @property
    def labels(self) -> dict[str, str]:
        """By which the jobs of this recipe are found again."""
        return {LABEL: hashlib.sha256(" ".join([self.recipe, *self.words]).encode()).hexdigest()[:16]}

    def volume(self, owner: str) -> Volume:
        """Return where the unfinished work of this recipe is kept, in a bucket; so many processes go on with it."""
        folder = f"{self.labels[LABEL]}-{self.processes}"
        return Volume(type="bucket", source=f"{owner}/{BUCKET}", mount_path=MOUNTED, path=folder)

    def __str__(self) -> str:
        machine, gpu = self.machine, self.machine.accelerator
        parts = [machine.cpu, machine.ram, *([f"{gpu.quantity} x {gpu.model}, {gpu.vram}"] if gpu else [])]
        price = f"${machine.unit_cost_usd:.4f} a {machine.unit_label}"
        most = "" if self.dollars is None else f", ${self.dollars:.2f} at most"
        return (
            f"machine: {machine.name} ({', '.join(parts)})\n"
            f"time limit: {self.seconds / MINUTE:g} minutes, after which the same command goes on with what is done\n"
            f"price: {price}{most}\n"
            f"publishes: {constants.ENDPOINT}/{self.to}"
        )


def seconds_of(text: str) -> int:
    """Read a time limit.

    Raises:
        UsageError: it is not a number with s, m, h or d.
    """
    match = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)([smhd])", text)
    seconds = int(float(match[1]) * SECONDS[match[2]]) if match else 0
    if seconds < 1:
        raise UsageError(f"--time-limit cannot be {shown(text)}: write 90m, 2h or 1d")
    return seconds


def machine_named(name: str) -> JobHardwareInfo:
    """Return what the Hub rents out under a name, with its price.

    Raises:
        UsageError: there is no such machine.
        RunError: the Hub does not answer.
    """
    with _in_one_sentence("its machines are not known"):
        machines = {machine.name: machine for machine in patiently(HfApi().list_jobs_hardware)}
    if name not in machines:
        raise UsageError(f"the Hub rents out no machine {shown(name)}{did_you_mean(name, machines)}")
    return machines[name]


def earlier_job(rental: Rental) -> JobInfo | None:
    """Return the job of the same recipe that is going on, else the last one that has ended; None before the first."""
    with _in_one_sentence("nothing was started"):
        jobs = patiently(lambda: list(HfApi().list_jobs(labels=rental.labels)))
    return max(jobs, key=lambda job: (is_going(job), job.created_at), default=None)


def is_going(job: JobInfo) -> bool:
    """Whether a job has not ended."""
    return job.status.stage in GOING


def start(rental: Rental) -> JobInfo:
    """Rent the machine and let it run the recipe, with the user's access token among the job's secrets.

    What it does until it ends is kept in a private bucket of the user.

    Raises:
        UsageError: this login may not.
        RunError: the Hub does not answer, or not well.
    """
    api = HfApi()
    with _in_one_sentence("nothing was started"):
        owner = patiently(api.whoami)["name"]
        patiently(api.create_bucket, f"{owner}/{BUCKET}", private=True, exist_ok=True)
    with _in_one_sentence("whether the job has started is unknown, and the same command finds it if so"):
        return api.run_job(
            image=DEFAULT_UV_IMAGE,
            command=rental.command,
            env={RECIPE: rental.recipe, KEPT: MOUNTED},
            secrets={"HF_TOKEN": get_token()},
            flavor=rental.machine.name,
            timeout=rental.seconds,
            labels=rental.labels,
            volumes=[rental.volume(owner)],
            namespace=owner,
        )


def watch(job: JobInfo, log: Callable[[str], None]) -> JobInfo:
    """Show the log of a job until it ends, and return how it did.

    Raises:
        Interrupted: the user pressed Ctrl-C; the job goes on.
        RunError: it failed or was cancelled, or the Hub does not answer any more.
    """
    api, again = HfApi(), f"the job goes on: the same command watches it, `hf jobs cancel {job.id}` stops it"
    try:
        with _in_one_sentence(again):
            for line in api.fetch_job_logs(job_id=job.id, namespace=job.owner.name, follow=True):
                log(line)
            ended = patiently(api.inspect_job, job_id=job.id, namespace=job.owner.name)
    except KeyboardInterrupt:
        raise Interrupted(f"{again}; {job.url}") from None
    if ended.status.stage != JobStage.COMPLETED:
        reason = f" ({ended.status.message})" if ended.status.message else ""
        raise RunError(
            f"the job ended as {ended.status.stage}{reason}, its log is kept at {job.url}: the same command goes on "
            "with what it has done, and asks before"
        )
    return ended


@contextmanager
def _in_one_sentence(state: str) -> Iterator[None]:
    """Turn a failure of the Hub into one sentence that ends with the state of things."""
    try:
        yield
    except HfHubHTTPError as error:
        status, said = status_of(error), redacted(error.server_message or "")
        refused = {
            401: "the Hub does not accept the access token; renew it: `hf auth login` or HF_TOKEN",
            402: f"the Hub asks for credits first: {constants.ENDPOINT}/settings/billing",
            403: "this login may not start jobs, or not write to buckets; take a token that may: `hf auth login` or "
            "HF_TOKEN",
        }
        if status in refused:
            raise UsageError(f"{refused[status]} (HTTP {status}: {said})") from None
        raise RunError(f"the Hub answered HTTP {status} ({said}): {state}") from None
    except httpx2.TransportError:
        raise RunError(f"the connection to the Hub broke: {state}") from None
