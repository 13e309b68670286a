"""Every way in which a push fails: one clear sentence, the repository unchanged, and a second attempt that succeeds.

All failing pushes run at once, since most of their time is spent waiting before they try again.
"""

import hashlib
import shutil
from dataclasses import dataclass, field

import pytest
from hub_client import ALICE, BOB
from safetensors.torch import load_file, save_file

EXPIRED = "hf_ExpiredButRecognisableToken"
ALWAYS = 10**6


@dataclass
class Case:
    """A fault, and the sentence it must lead to; `{repo}`, `{oid}` stand for the repository and the weights' hash."""

    says: str
    fault: dict = field(default_factory=dict)
    code: int = 1
    token: str = ALICE
    unchanged: bool = True


def fault(pattern, **options):
    return {"pattern": pattern, "times": ALWAYS} | options


FAILURES = {
    "server-errors": Case("the Hub answered HTTP 500", fault("POST .*{repo}/commit", status=500)),
    "unavailable": Case("the Hub answered HTTP 503", fault("GET .*{repo}", status=503, headers={"Retry-After": "1"})),
    "rate-limit": Case(
        "the Hub asks for fewer requests (HTTP 429); wait some minutes",
        fault("POST .*{repo}/commit", status=429, headers={"Retry-After": "1"}),
    ),
    "day-long-wait": Case(
        "the Hub asks for fewer requests (HTTP 429); wait some minutes",
        fault("POST .*{repo}/commit", status=429, headers={"Retry-After": "100000"}),
    ),
    "day-long-wait-of-an-upload": Case(
        "the Hub asks for fewer requests (HTTP 429); wait some minutes",
        fault("POST .*{repo}.git/info/lfs", status=429, headers={"RateLimit": '"api";r=0;t=100000'}),
    ),
    "cut-upload": Case("the connection to the Hub broke", fault("PUT /lfs/{oid}", cut=100_000)),
    "cut-commit": Case("the connection to the Hub broke", fault("POST .*{repo}/commit", cut=100), unchanged=False),
    "wrong-hash": Case("a file arrived damaged", fault("PUT /lfs/{oid}", corrupt=True)),
    "expired-token": Case("the Hub does not accept the access token", code=2, token=EXPIRED),
    "full-disk": Case(
        "the Hub has no room for the files (HTTP 507: Insufficient Storage)",
        fault("PUT /lfs/{oid}", status=507, message="Insufficient Storage"),
    ),
    "quota": Case("no room for the files (HTTP 413", fault("POST .*{repo}.git/info/lfs", status=413, message="quota")),
    "no-rights": Case("this login may not write to alice/no-rights", code=2, token=BOB),
    "overtaken": Case("was changed by someone else meanwhile", fault("POST .*{repo}/commit", status=412)),
    "bad-card": Case("the Hub answered HTTP 400 (bad)", fault("POST .*{repo}/commit", status=400, message="bad")),
}  # fmt: skip

PASSING = {
    "twice-500": fault("POST .*{repo}/commit", status=500, times=2),
    "once-429": fault("POST .*{repo}.git/info/lfs", status=429, headers={"Retry-After": "0"}, times=1),
    "once-cut": fault("PUT /lfs/{oid}", cut=100_000, times=1),
    "cut-asking": fault("GET .*{repo}", cut=0, times=1),
    "lost-answer": fault("POST .*{repo}/commit", lose_answer=True, times=1),
}


def own_folder(run_folder, target, name):
    """Copy the run, with weights of its own: the Hub does not want contents again that it has."""
    shutil.copytree(run_folder, target)
    weights = target / "model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt", "case": name})
    return target, hashlib.sha256(weights.read_bytes()).hexdigest()


@dataclass
class Outcome:
    first: object
    second: object
    before: tuple
    after: tuple
    folder: object


def state(hub, name):
    return dict(hub.repo(name).refs), hub.files(name)


@pytest.fixture(scope="module")
def failed(hub, client, run_folder, tmp_path_factory):
    hub.tokens[EXPIRED] = "alice"
    hub.expired.add(EXPIRED)
    running, faults, outcomes = {}, [], {}
    for name, case in FAILURES.items():
        folder, oid = own_folder(run_folder, tmp_path_factory.mktemp(name) / "run", name)
        hub.add(f"alice/{name}", {"README.md": b"# what was there before\n"})
        if case.fault:
            pattern = case.fault["pattern"].format(repo=f"alice/{name}", oid=oid)
            faults.append(hub.fail(**case.fault | {"pattern": pattern}))
        before = state(hub, f"alice/{name}")
        push = ("publish", folder, "--to", f"alice/{name}")
        running[name] = folder, before, push, client.start_cli(*push, HF_TOKEN=case.token)
    firsts = {name: finish() for name, (*_, finish) in running.items()}
    afters = {name: state(hub, f"alice/{name}") for name in FAILURES}
    for fault in faults:
        fault.times = 0
    seconds = {name: client.start_cli(*push, HF_TOKEN=ALICE) for name, (_, _, push, _) in running.items()}
    for name, (folder, before, _, _) in running.items():
        outcomes[name] = Outcome(firsts[name], seconds[name](), before, afters[name], folder)
    return outcomes


@pytest.mark.long
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_one_clear_sentence_that_says_how_to_go_on(name, failed):
    case, first = FAILURES[name], failed[name].first
    assert first.code == case.code, first.err[-2000:]
    assert first.error.startswith("error: publishing failed: ")
    assert case.says in first.error
    again = f"run `hf-compress publish {failed[name].folder} --to alice/{name}` again"
    assert first.error.endswith(again)
    certain = f"alice/{name} was left as it was" in first.error
    assert certain == (case.unchanged and name != "server-errors")
    assert certain or "whether the commit arrived" in first.error
    assert "Traceback" not in first.err


@pytest.mark.long
@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_push_changes_nothing(name, failed):
    assert failed[name].before == failed[name].after


@pytest.mark.long
@pytest.mark.parametrize("name", FAILURES)
def test_the_second_attempt_succeeds(name, failed, hub):
    assert failed[name].second.code == 0, failed[name].second.err[-2000:]
    weights = (failed[name].folder / "model.safetensors").read_bytes()
    assert hub.files(f"alice/{name}")["model.safetensors"] == weights
    assert len(hub.repo(f"alice/{name}").commits) == 3


@pytest.fixture(scope="module")
def passed(hub, client, run_folder, tmp_path_factory):
    running = {}
    for name, options in PASSING.items():
        folder, oid = own_folder(run_folder, tmp_path_factory.mktemp(name) / "run", name)
        hub.add(f"alice/{name}", {"README.md": b"# what was there before\n"})
        spoiled = hub.fail(**options | {"pattern": options["pattern"].format(repo=f"alice/{name}", oid=oid)})
        running[name] = spoiled, client.start_cli("publish", folder, "--to", f"alice/{name}", HF_TOKEN=ALICE)
    return {name: (spoiled, finish()) for name, (spoiled, finish) in running.items()}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_by_waiting_is_waited_for(name, passed, hub):
    spoiled, result = passed[name]
    assert spoiled.times == 0
    assert result.code == 0, result.err[-2000:]
    assert "published: " in result.out
    assert len(hub.repo(f"alice/{name}").commits) == 3  # one of ours, even where its answer was lost


def test_a_pull_request_whose_answer_is_lost_is_not_opened_twice(hub, client, run_folder):
    repo = hub.add("alice/lost-request", {"README.md": b"# theirs"})
    hub.fail("POST .*alice/lost-request/commit", lose_answer=True)
    result = client.cli("publish", run_folder, "--to", "alice/lost-request", "--create-pr", HF_TOKEN=BOB)
    assert (result.code, "whether the commit arrived" in result.error) == (1, True)
    assert len(repo.pulls) == 1


def test_a_token_that_cannot_be_sent_is_not_shown(client, run_folder):
    for token in ("hf_recognisable\x01token", "hf_recognisable\u20actoken"):
        result = client.cli("publish", run_folder, "--to", "alice/never", HF_TOKEN=token)
        assert (result.code, "the access token has characters" in result.error) == (2, True)
        assert "hf_recognisable" not in result.out + result.err


@pytest.mark.long
def test_no_token_is_anywhere(hub, client, failed, passed, tmp_path_factory):
    """In no output, debug log, run folder, cache, card, nor in what the Hub was sent."""
    tokens = [token.encode() for token in (ALICE, BOB, EXPIRED)]
    files = [path for path in tmp_path_factory.getbasetemp().rglob("*") if path.is_file()]
    assert any(path.suffix == ".err" and b"<TOKEN>" in path.read_bytes() for path in files)  # requests were logged
    assert [str(path) for path in files for token in tokens if token in path.read_bytes()] == []
    assert hub.leaks == []
