"""What is kept of unfinished work: whole copies of single moments, from which another machine goes on."""

import signal
import subprocess
import sys

import pytest

from hf_compress.hub.keeping import Copies, keep

COUNT = """
import sys, pathlib
file = pathlib.Path(sys.argv[1], "count")
count = int(file.read_text()) + 1 if file.exists() else 1
file.write_text(str(count))
sys.exit(0 if count == 3 else 7)
"""

SLOW = """
import sys, pathlib, time
pathlib.Path(sys.argv[1], "file").touch()
print("there", flush=True)
time.sleep(60)
"""


@pytest.fixture
def kept(tmp_path):
    for name in ("work", "kept"):
        (tmp_path / name).mkdir()
    return Copies(tmp_path / "work", tmp_path / "kept")


def fresh(kept, tmp_path):
    """Return the same on another machine, whose disk is empty."""
    return Copies(tmp_path / "elsewhere", kept.place)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.is_file() and path.read_text() for path in folder.rglob("*")}


def test_another_machine_has_files_folders_and_times_as_they_were(kept, tmp_path):
    (kept.folder / "a/empty").mkdir(parents=True)
    (kept.folder / "a/file").write_text("one")
    (kept.folder / "a/.new-file").write_text("half")
    (kept.folder / ".new-folder").mkdir()
    (kept.folder / ".new-folder/file").write_text("half")
    assert kept.copy()
    other = fresh(kept, tmp_path)
    assert other.restore()
    assert contents(other.folder) == {"a": False, "a/empty": False, "a/file": "one"}
    assert (other.folder / "a/file").stat().st_mtime == pytest.approx(
        (kept.folder / "a/file").stat().st_mtime, abs=1e-6
    )


def test_the_last_whole_copy_counts_and_earlier_ones_go(kept, tmp_path):
    file = kept.folder / "file"
    for text in ("one", "two"):
        file.write_text(text)
        assert kept.copy()
    assert [place.name for place in sorted(kept.place.iterdir())] == ["000002.sha256", "000002.tar"]
    for broken in ("without its sum", "torn"):
        (kept.place / "000003.tar").write_bytes((kept.place / "000002.tar").read_bytes()[:700])
        if broken == "torn":
            (kept.place / "000003.sha256").write_text("0" * 64)
        other = fresh(kept, tmp_path)
        assert other.restore()
        assert contents(other.folder) == {"file": "two"}, broken
    file.write_text("three")
    assert kept.copy()
    assert [place.name for place in sorted(kept.place.iterdir())] == ["000004.sha256", "000004.tar"]


def test_nothing_is_copied_where_nothing_has_changed(kept, tmp_path):
    (kept.folder / "file").write_text("one")
    assert kept.copy() and kept.copy()
    assert sorted(place.stem for place in kept.place.iterdir()) == ["000001", "000001"]
    other = fresh(kept, tmp_path)
    other.restore()
    assert other.copy() and len(list(kept.place.iterdir())) == 2


def test_a_copy_during_which_something_changes_is_made_again_later(kept, tmp_path):
    for name in ("a", "z"):
        (kept.folder / name).write_text("one")
    assert kept.copy()

    class Busy(Copies):
        def _state(self):
            found = super()._state()
            (self.folder / "z").write_text("two, at last")
            return found

    (kept.folder / "a").write_text("two")
    assert not Busy(kept.folder, kept.place).copy()
    other = fresh(kept, tmp_path)
    assert other.restore()
    assert contents(other.folder) == {"a": "one", "z": "one"}
    assert kept.copy() and other.restore()
    assert contents(other.folder) == {"a": "two", "z": "two, at last"}


def test_what_goes_while_it_is_copied_is_copied_later(kept):
    class Busy(Copies):
        def _state(self):
            found = super()._state()
            (self.folder / "file").unlink(missing_ok=True)
            return found

    (kept.folder / "file").touch()
    assert not Busy(kept.folder, kept.place).copy()
    assert not list(kept.place.iterdir())


def test_a_command_goes_on_from_machine_to_machine_and_leaves_nothing_when_it_is_done(kept, tmp_path, capfd):
    for machine, status in enumerate((7, 7, 0)):
        folder = tmp_path / str(machine)
        assert keep(folder, kept.place, [sys.executable, "-c", COUNT, str(folder)]) == status
        assert (folder / "count").read_text() == str(machine + 1)
        assert bool(list(kept.place.iterdir())) == (status != 0)
        assert ("goes on with what an earlier machine has kept" in capfd.readouterr().err) == (machine > 0)


def test_what_cannot_be_kept_is_said_and_does_not_stop_the_work(kept, tmp_path, capfd):
    command = [sys.executable, "-c", COUNT, str(tmp_path / "x")]
    assert keep(tmp_path / "x", tmp_path / "nowhere", command) == 7
    assert "nothing was kept in" in (said := capfd.readouterr().err) and "No such file" in said


def test_a_machine_that_is_told_to_end_passes_it_on_and_keeps_what_is_done(kept):
    words = [str(kept.folder), str(kept.place), sys.executable, "-c", SLOW, str(kept.folder)]
    with subprocess.Popen(
        [sys.executable, "-m", "hf_compress.hub.keeping", *words], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == -signal.SIGTERM % 256
    assert len(list(kept.place.iterdir())) == 2
