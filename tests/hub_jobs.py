"""Jobs of the loopback Hub: what the client asks for when it rents a machine, reads the log and looks at the end.

A job does nothing by itself: a test says what it logs and how it ends, or runs its command. Buckets are there to be
mounted by jobs: a folder of the server's disk is one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hub_routes import route
from hub_storage import Refused

if TYPE_CHECKING:
    from hub_server import Handler

GPU = {"type": "gpu", "vram": "24 GB", "manufacturer": "Nvidia"}
HARDWARE = [
    {"name": "cpu-basic", "prettyName": "CPU Basic", "cpu": "2 vCPU", "ram": "16 GB", "ephemeralStorage": "50 GB",
     "accelerator": None, "unitCostMicroUSD": 167, "unitCostUSD": 0.000167, "unitLabel": "minute"},
    {"name": "l4x1", "prettyName": "1x Nvidia L4", "cpu": "8 vCPU", "ram": "30 GB", "ephemeralStorage": "400 GB",
     "accelerator": GPU | {"model": "L4", "quantity": "1"}, "unitCostMicroUSD": 13333, "unitCostUSD": 0.013333,
     "unitLabel": "minute"},
    {"name": "l4x4", "prettyName": "4x Nvidia L4", "cpu": "48 vCPU", "ram": "186 GB", "ephemeralStorage": "3200 GB",
     "accelerator": GPU | {"model": "L4", "quantity": "4"}, "unitCostMicroUSD": 63333, "unitCostUSD": 0.063333,
     "unitLabel": "minute"},
]  # fmt: skip
UV = '#!/bin/sh\n[ "$1 $2" = "run --with" ] || exit 64\nshift 3\nexec "$@"\n'


@dataclass
class Job:
    id: str
    owner: str
    spec: dict
    stage: str = "RUNNING"
    message: str | None = None
    lines: list[str] = field(default_factory=list)
    date: str = field(default_factory=lambda: _now())
    news: threading.Condition = field(default_factory=threading.Condition)
    process: subprocess.Popen | None = None

    def log(self, line: str) -> None:
        with self.news:
            self.lines.append(line)
            self.news.notify_all()

    def end(self, stage: str, message: str | None = None) -> None:
        with self.news:
            self.stage, self.message = stage, message
            self.news.notify_all()

    def volumes(self, disk: Path) -> dict[str, Path]:
        """Where a rented machine finds its buckets, which lie on a disk, by the paths that the command names."""
        found = {volume["mountPath"]: disk / volume["source"] / volume["path"] for volume in self.spec["volumes"]}
        for place in found.values():
            place.mkdir(parents=True, exist_ok=True)
        return found

    def run(self, folder: Path, programs: Path, disk: Path, **environment: str) -> None:
        """Do what a rented machine does: run the command in an empty folder, with `programs` and a uv on its path."""
        mounted = self.volumes(disk)
        (programs / "uv").write_text(UV)
        (programs / "uv").chmod(0o755)
        environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(folder)}
        named = self.spec["environment"] | self.spec["secrets"]
        environment |= {name: str(mounted.get(value, value)) for name, value in named.items()}
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        with subprocess.Popen(self.spec["command"], cwd=folder, env=environment, **options) as self.process:
            for line in self.process.stdout:
                self.log(line.rstrip("\n"))
        status = self.process.returncode
        self.end("ERROR" if status else "COMPLETED", f"exit code {status}" if status >= 0 else "Job timeout")

    def take_away(self) -> None:
        """End the machine in the middle of its work, as at the end of a time limit."""
        os.killpg(self.process.pid, signal.SIGKILL)

    @property
    def info(self) -> dict:
        """What the Hub tells of a job, which never is the value of a secret."""
        shown = {key: self.spec.get(key) for key in ("dockerImage", "command", "arguments", "environment", "flavor")}
        shown |= {"labels": self.spec.get("labels"), "secrets": dict.fromkeys(self.spec.get("secrets", {}), "")}
        owner = {"id": "0" * 24, "name": self.owner, "type": "user"}
        status = {"stage": self.stage, "message": self.message}
        return shown | {"id": self.id, "createdAt": self.date, "owner": owner, "status": status}


@route("GET", "/api/jobs/hardware")
def hardware(request: Handler) -> None:
    request.answer(200, HARDWARE)


@route("POST", "/api/jobs/(?P<owner>[^/]+)")
def start(request: Handler, owner: str) -> None:
    _allow(request, owner)
    spec = request.json()
    if spec["flavor"] not in [machine["name"] for machine in HARDWARE]:
        raise Refused(400, "Invalid flavor")
    with request.hub.lock:
        job = Job(f"{len(request.hub.jobs):024x}", owner, spec)
        request.hub.jobs[job.id] = job
    request.answer(200, job.info)


@route("POST", "/api/buckets/(?P<owner>[^/]+)/(?P<name>[^/]+)")
def create_bucket(request: Handler, owner: str, name: str) -> None:
    _allow(request, owner)
    bucket, wanted = f"{owner}/{name}", request.json()
    with request.hub.lock:
        status = 409 if bucket in request.hub.buckets else 200
        request.hub.buckets.setdefault(bucket, wanted.get("visibility", "public"))
    request.answer(status, {"url": f"{request.hub.url}/buckets/{bucket}"})


@route("GET", "/api/jobs/(?P<owner>[^/]+)")
def jobs(request: Handler, owner: str) -> None:
    _allow(request, owner)
    wanted = dict(label.split("=", 1) for label in request.query.get("label", []))
    stages = request.query.get("stage", [])
    request.answer(200, [
        job.info for job in request.hub.jobs.values()
        if job.owner == owner and wanted.items() <= job.spec.get("labels", {}).items()
        and (not stages or job.stage in stages)
    ])  # fmt: skip


@route("GET", "/api/jobs/(?P<owner>[^/]+)/(?P<number>[0-9a-f]+)")
def inspect(request: Handler, owner: str, number: str) -> None:
    request.answer(200, _job(request, owner, number).info)


@route("POST", "/api/jobs/(?P<owner>[^/]+)/(?P<number>[0-9a-f]+)/cancel")
def cancel(request: Handler, owner: str, number: str) -> None:
    _job(request, owner, number).end("CANCELED")
    request.answer(200, {})


@route("GET", "/api/jobs/(?P<owner>[^/]+)/(?P<number>[0-9a-f]+)/logs")
def logs(request: Handler, owner: str, number: str) -> None:
    """Server-sent events: all lines so far, then each as it comes, until the job ends."""
    job, sent = _job(request, owner, number), 0
    request.send_response(200)
    request.send_header("Content-Type", "text/event-stream")
    request.send_header("Connection", "close")
    request.end_headers()
    request.close_connection = True
    over = False
    while not over:
        with job.news:
            if len(job.lines) == sent and job.stage == "RUNNING":
                job.news.wait(60)
            new, over = job.lines[sent:], job.stage != "RUNNING"
        for line in new:
            request.wfile.write(f"data: {json.dumps({'timestamp': _now(), 'data': line})}\n\n".encode())
        request.wfile.flush()
        sent += len(new)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _allow(request: Handler, owner: str) -> None:
    if request.user is None:
        raise Refused(401, "Invalid username or password.")
    if request.user != owner:
        raise Refused(403, f"You don't have the rights to run jobs in {owner}")


def _job(request: Handler, owner: str, number: str) -> Job:
    _allow(request, owner)
    if number not in request.hub.jobs or request.hub.jobs[number].owner != owner:
        raise Refused(404, "Job not found")
    return request.hub.jobs[number]
