"""No case may hang, and none may write outside its folder."""

import signal

import pytest

SECONDS = 30


@pytest.fixture(autouse=True)
def time_limit():
    """Fail a case that takes longer than its share, wherever it hangs."""

    def stop(signum, frame):
        raise AssertionError(f"still at work after {SECONDS} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


@pytest.fixture
def fenced(tmp_path, monkeypatch):
    """A folder to work in; nothing may appear beside it."""
    inside = tmp_path / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    yield inside
    assert [place.name for place in tmp_path.iterdir()] == ["inside"]
