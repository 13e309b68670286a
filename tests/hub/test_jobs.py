"""`hf-compress run --on`: a machine is rented, watched until it ends, and its result is on the Hub."""

import os
import signal
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest
import yaml
from hub_client import ALICE, command_line

SPLITS = {"train": "train[:60]", "validation": "train[60:90]", "test": "train[90:120]"}
RECIPE = {
    "student": {"model": "resnet18", "width": 0.125, "image_size": 32},
    "data": {"path": "digits", "splits": SPLITS},
    "steps": [{"finetune": {"epochs": 1}}],
    "measure": {"batch_size": 2, "repeats": 3},
    "publish": {"to": "alice/rented", "license": "apache-2.0"},
}


@pytest.fixture
def recipe(client, tmp_path):
    def written(**sections):
        path = tmp_path / "my-recipe.yaml"
        path.write_text(yaml.safe_dump(RECIPE | sections))
        return path

    return written


def soon(fact):
    """Wait until something is there, and return it."""
    for _ in range(600):
        if found := fact():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")


def new_job(hub, known):
    """Wait for the job that a client starts."""
    return soon(lambda: list(hub.jobs.values())[known:])[0]


def interrupted_at(marker, *arguments):
    """Press Ctrl-C as soon as there is a file."""

    def press():
        while not Path(marker).exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press, daemon=True).start()
    command_line(*arguments)


def test_a_job_is_started_left_by_ctrl_c_and_watched_to_its_end(hub, client, recipe, tmp_path):
    known, marker = len(hub.jobs), tmp_path / "now"
    arguments = ["run", str(recipe(seed=1)), "--on", "l4x1", "--time-limit", "90m", "--yes"]
    finish = client.start(interrupted_at, str(marker), *arguments, HF_TOKEN=ALICE)
    job = new_job(hub, known)
    assert job.spec["flavor"] == "l4x1"
    assert job.spec["timeoutSeconds"] == 90 * 60
    assert job.spec["secrets"] == {"HF_TOKEN": ALICE}
    (volume,) = job.spec["volumes"]
    assert (volume["type"], volume["source"], volume["mountPath"]) == ("bucket", "alice/hf-compress-jobs", "/kept")
    assert hub.buckets["alice/hf-compress-jobs"] == "private"
    assert ALICE not in str(job.spec["command"]) + str(job.spec["environment"])
    assert yaml.safe_load(job.spec["environment"]["HF_COMPRESS_RECIPE"])["seed"] == 1
    job.log("  epoch 1 of 1")
    url = f"{hub.url}/jobs/alice/{job.id}"
    soon(lambda: hub.count(f"GET .*/{job.id}/logs"))
    marker.touch()
    left = finish()
    assert left.code == 130
    assert "machine: l4x1 (8 vCPU, 30 GB, 1 x L4, 24 GB)\ntime limit: 90 minutes" in left.err
    assert "price: $0.0133 a minute, $1.20 at most\n" in left.err
    assert f"publishes: {hub.url}/alice/rented" in left.err
    assert f"the same command watches it, `hf jobs cancel {job.id}` stops it; {url}" in left.error
    assert job.stage == "RUNNING"

    finish = client.start_cli(*arguments, HF_TOKEN=ALICE)
    soon(lambda: hub.count(f"GET .*/{job.id}/logs") > 1)
    job.log("  the last line")
    job.end("COMPLETED")
    watched = finish()
    assert watched.code == 0, watched.err
    said = [line for line in watched.err.splitlines() if not line.startswith(("Request ", "Send: ", "DEBUG: "))]
    assert said == [f"a job of this recipe is going on, on l4x1: {url}", "  epoch 1 of 1", "  the last line"]
    assert watched.out == f"published: alice/rented, by {url}\n"
    assert len(hub.jobs) == known + 1


def test_a_job_that_fails_is_begun_anew(hub, client, recipe):
    known = len(hub.jobs)
    arguments = ["run", recipe(seed=2), "--on", "l4x4", "--yes", "--package", "hf-compress @ git+https://x.org/y"]
    for stage, message in (("ERROR", "exit code 1"), ("CANCELED", None)):
        finish = client.start_cli(*arguments, HF_TOKEN=ALICE)
        job = new_job(hub, known)
        job.end(stage, message)
        result, known = finish(), known + 1
        assert result.code == 1
        assert f"the job ended as {stage}{f' ({message})' if message else ''}, its log is kept at" in result.error
    assert "the last job of this recipe ended as ERROR" in result.err
    assert job.spec["command"][:4] == ["uv", "run", "--with", "hf-compress @ git+https://x.org/y"]
    assert "torchrun --standalone --nproc-per-node 4 -m hf_compress run recipe.yaml" in job.spec["command"][-1]


@pytest.mark.parametrize(("arguments", "says"), [
    (["--on", "l4x1"], "nobody is here to be asked: agree by --yes"),
    (["--on", "l4x11", "--yes"], "no machine 'l4x11'; did you mean 'l4x1'?"),
    (["--on", "l4x1", "--yes", "--set", "publish=null"], "add 'publish' to the recipe, for example --set publish.to="),
    (["--on", "l4x1", "--yes", "--time-limit", "soon"], "--time-limit cannot be 'soon': write 90m, 2h or 1d"),
    (["--on", "l4x1", "--yes", "--output", "x"], "--output is for runs on this machine: leave it out with --on"),
    (["--yes"], "--yes is for runs on a rented machine: add --on MACHINE"),
    (["--on", "l4x1", "--yes", "--data", str(Path(__file__).parent)], "'data.path' is on this machine"),
    (["--on", "l4x1", "--yes", "--set", f"publish.template={__file__}"], "does not see it: leave it out"),
    (["--on", "l4x1", "--yes", "--set", "track=trackio"], "leave it out by --set track=null"),
])  # fmt: skip
def test_what_cannot_be_rented_is_refused_before_anything_is_paid_for(arguments, says, hub, client, recipe):
    known = len(hub.jobs)
    result = client.cli("run", recipe(), *arguments, HF_TOKEN=ALICE)
    assert result.code == 2
    assert says in result.error
    assert len(hub.jobs) == known


@pytest.mark.parametrize(("fault", "code", "says"), [
    ({"status": 402, "message": "Pre-paid credit balance is insufficient"}, 2, "asks for credits first: http"),
    ({"status": 403, "message": "no"}, 2, "this login may not start jobs"),
    ({"lose_answer": True}, 1, "whether the job has started is unknown, and the same command finds it if so"),
])  # fmt: skip
def test_a_failing_hub_is_one_sentence(fault, code, says, hub, client, recipe):
    hub.fail("POST /api/jobs/alice$", **fault)
    result = client.cli("run", recipe(seed=3), "--on", "l4x1", "--yes", HF_TOKEN=ALICE)
    assert result.code == code
    assert says in result.error


@pytest.fixture
def machine(client, hub, tmp_path):
    """Does what a rented machine does, each time on an empty disk."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, words in (("hf-compress", "-m hf_compress"), ("python", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
        (programs / name).chmod(0o755)

    def run(job):
        folder = tmp_path / job.id
        folder.mkdir()
        environment = client.environment | {"HF_HOME": str(folder / "home"), "HF_COMPRESS_KEEP_EVERY": "0.3"}
        job.run(folder, programs, hub.disk, **environment)

    return run


@pytest.mark.long
def test_what_a_rented_machine_does_is_a_run_that_is_published(hub, client, recipe, machine):
    known = len(hub.jobs)
    finish = client.start_cli("run", recipe(seed=4), "--on", "cpu-basic", "--yes", HF_TOKEN=ALICE)
    machine(new_job(hub, known))
    result = finish()
    assert result.code == 0, result.err
    assert "published: http" in result.err
    assert "model.safetensors" in hub.files("alice/rented")


@pytest.mark.long
def test_a_machine_that_is_taken_away_is_followed_by_one_that_goes_on(hub, client, recipe, machine):
    known = len(hub.jobs)
    sections = {
        "seed": 5,
        "steps": [{"finetune": {"epochs": 40}}],
        "publish": RECIPE["publish"] | {"to": "alice/again"},
    }
    command = ["run", recipe(**sections), "--on", "cpu-basic", "--yes"]
    finish = client.start_cli(*command, HF_TOKEN=ALICE)
    first = new_job(hub, known)
    (place,) = first.volumes(hub.disk).values()

    def kept_epochs():
        return [
            archive
            for archive in place.glob("*.sha256")
            if "checkpoint-" in str(names_in(archive.with_suffix(".tar")))
        ]

    def take_away():
        soon(kept_epochs)
        first.take_away()

    threading.Thread(target=take_away, daemon=True).start()
    machine(first)
    ended = finish()
    assert ended.code == 1 and "the job ended as ERROR (Job timeout)" in ended.error
    assert "the same command goes on with what it has done" in ended.error
    assert hub.buckets == {"alice/hf-compress-jobs": "private"}

    finish = client.start_cli(*command, HF_TOKEN=ALICE)
    second = new_job(hub, known + 1)
    machine(second)
    result = finish()
    assert result.code == 0, result.err
    assert any("goes on with what an earlier machine has kept" in line for line in second.lines)
    assert any("epoch 1 of 40" in line for line in first.lines)
    assert not any("epoch 1 of 40" in line for line in second.lines)
    assert "model.safetensors" in hub.files("alice/again")
    assert not list(place.iterdir())


def names_in(archive):
    try:
        with tarfile.open(archive) as content:
            return content.getnames()
    except FileNotFoundError:  # a newer one has taken its place
        return []
