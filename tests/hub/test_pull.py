"""Teachers and images from the Hub: pinned, cached, and one sentence when they cannot be had."""

import json
import os
import subprocess
import sys

import pytest
import yaml
from hub_client import ALICE, BOB


def test_commits_and_licence_are_in_recipe_and_report(run_folder, teacher, digits):
    recipe = yaml.safe_load((run_folder / "recipe.yaml").read_text())
    report = json.loads((run_folder / "report.json").read_text())
    commit = teacher.resolve("main").oid
    assert recipe["teacher"]["revision"] == commit
    assert report["teacher"] == {
        "id": "alice/teacher",
        "source": "hub",
        "revision": commit,
        "license": "apache-2.0",
        "base_model": "alice/teacher",
    }
    assert recipe["data"]["revision"] == report["data"]["revision"] == digits.resolve("main").oid
    assert report["student"] is None


@pytest.mark.long
def test_the_pinned_recipe_loads_the_same_files_after_the_hub_moved_on_and_without_it(hub, client, run_folder):
    """Offline, the resolved recipe runs again from the cache: same commits, same teacher, same accuracy."""
    pinned = yaml.safe_load((run_folder / "recipe.yaml").read_text())
    for name, kind in (("alice/teacher", "model"), ("alice/digits", "dataset")):
        repo = hub.repo(name, kind)
        repo.commit("refs/heads/main", "break everything", {}, repo.resolve("main").oid)
    try:
        online = client.call(load, f"alice/teacher@{pinned['teacher']['revision']}", HF_TOKEN=ALICE)
        requests = len(hub.requests)
        offline = run_offline(
            client,
            ["run", str(run_folder / "recipe.yaml"), "--output", str(client.folder / "offline")],
            ["run", str(run_folder / "recipe.yaml"), "--output", str(client.folder / "other"),
             "--set", f"data.revision={'a' * 40}"],
        )  # fmt: skip
    finally:
        for name, kind in (("alice/teacher", "model"), ("alice/digits", "dataset")):
            repo = hub.repo(name, kind)
            repo.refs["refs/heads/main"] = repo.resolve("main").parent
    assert online.code == 0, online.err
    assert "0 1" in offline.stdout, offline.stderr
    assert len(hub.requests) == requests
    first = json.loads((run_folder / "report.json").read_text())
    recipe = yaml.safe_load((client.folder / "offline" / "recipe.yaml").read_text())
    report = json.loads((client.folder / "offline" / "report.json").read_text())
    assert recipe == pinned
    assert report["teacher"] == first["teacher"]
    assert [row["quality"] for row in report["rows"]] == [row["quality"] for row in first["rows"]]
    assert "alice/digits is cached at commit" in offline.stderr  # and not at the other one
    assert not (client.folder / "other").exists()


def run_offline(client, *commands):
    """Run command lines in one process that is offline from its start; prints their exit codes at the end."""
    code = """
import json, sys
from hf_compress.cli import main
codes = []
for sys.argv in json.loads(sys.argv[1]):
    try:
        main()
        codes.append(0)
    except SystemExit as stop:
        codes.append(stop.code or 0)
print(*codes)
"""
    return subprocess.run(
        [sys.executable, "-c", code, json.dumps([["hf-compress", *words] for words in commands])],
        env=os.environ | client.environment | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def repositories(hub, teacher):
    files = hub.files("alice/teacher")
    for name, options in (("gated", {"gated": True}), ("hidden", {"private": True}), ("unreachable", {})):
        hub.add(f"alice/{name}", files, **options)
    hub.add("alice/hidden-digits", {"train.parquet": b""}, kind="dataset", private=True)
    hub.fail("/alice/unreachable", cut=0, times=10**6)
    hub.expired.add("hf_expired")


@pytest.mark.parametrize(
    ("name", "token", "code", "says"),
    [
        ("alice/gated", BOB, 1, "alice/gated is gated: ask for access on its Hub page"),
        ("alice/gated", None, 1, "alice/gated is gated: ask for access on its Hub page"),
        ("alice/hidden", BOB, 2, "there is no model 'alice/hidden' on the Hub or as a folder"),
        ("alice/hidden", None, 2, "there is no model 'alice/hidden' on the Hub or as a folder"),
        ("alice/nothing", ALICE, 2, "there is no model 'alice/nothing' on the Hub or as a folder"),
        ("alice/hidden", "hf_expired", 1, "the Hub does not accept the access token"),
        ("alice/unreachable", ALICE, 1, "is not cached and the Hub is out of reach"),
    ],
)
def test_models_that_cannot_be_had(name, token, code, says, client, repositories):
    result = client.cli("evaluate", name, "--data", "digits", HF_TOKEN=token)
    assert (result.code, says in result.error) == (code, True), result.error


def test_a_revision_that_is_missing(client, teacher, digits):
    result = client.cli("run", "prune-weights-l1", "--teacher", "alice/teacher@v9", "--data", "alice/digits",
                        "--output", client.folder / "nowhere")  # fmt: skip
    assert (result.code, result.error) == (2, "error: alice/teacher has no such revision: check 'revision'")
    result = client.cli("run", "prune-weights-l1", "--teacher", "alice/teacher", "--data", "alice/digits",
                        "--set", "data.revision=v9", "--output", client.folder / "nowhere")  # fmt: skip
    assert result.code == 2
    assert "Revision 'v9' doesn't exist for dataset 'alice/digits'" in result.error


def test_images_that_cannot_be_had(client, repositories):
    result = client.cli("run", "quickstart", "--data", "alice/hidden-digits", "--output", client.folder / "nowhere")
    assert result.code == 2
    assert "'data.path': Dataset 'alice/hidden-digits' doesn't exist on the Hub or cannot be accessed" in result.error


def test_the_owner_of_what_is_private_or_gated_gets_it(client, repositories):
    for name in ("alice/hidden", "alice/gated"):
        assert client.call(load, name, HF_TOKEN=ALICE).code == 0


def load(name):
    from hf_compress import load

    name, _, revision = name.partition("@")
    loaded = load(name, revision=revision or None)
    assert loaded.commit == (revision or loaded.commit)
