"""Of a study folder only what the study and its runs wrote is replaced or removed."""

from contextlib import suppress

import pytest
from outputs import MINE, contents, interrupted, put, recipe, run, without_manifest, write

from hf_compress import Study
from hf_compress.ground.errors import UsageError
from hf_compress.ground.manifest import MANIFEST, adding
from hf_compress.run.folder import RunFolder
from hf_compress.study import running


@pytest.fixture
def output(tmp_path):
    return tmp_path / "runs" / "out"


VALUES = {"data": "digits", "seeds": [0], "student": "resnet18", "steps": ["finetune"]}
STUDY = VALUES | {"runs": {"big": {}, "small": {"teacher": {"run": "big"}, "steps": ["distill"]}}}


def study(output, monkeypatch, stop_at=None, **options):
    """Make a study whose runs do nothing; stop within a run."""

    def compress(_, place, **flags):
        with RunFolder(place, recipe(), **{key: flags[key] for key in ("overwrite", "resume")}) as folder:
            folder.units.value("first", lambda: 1)
            if stop_at and stop_at in str(place):
                raise KeyboardInterrupt
            return folder.finished or folder.finish(write)

    def results(_, finished, folder, *latencies):
        with adding(folder) as new:
            put(*running.PAGE_FILES, text=f"{len(finished)} runs")(new)

    monkeypatch.setattr(running, "compress", compress)
    monkeypatch.setattr(running, "write_results", results)
    monkeypatch.setattr(running, "_latencies", lambda *_: {})
    with suppress(KeyboardInterrupt):
        running.run_study(Study.from_dict(STUDY), output, log=lambda line: None, **options)


STUDIES = {
    "as it was made": (lambda folder: None, None),
    "interrupted": (lambda folder: interrupted(folder / "small-seed-0", overwrite=True), None),
    "a run that is gone": (lambda folder: (folder / "big-seed-0").rename(folder.parent / "big"), None),
    "notes": (put("notes.md"), "notes.md"),
    "a page that was edited": (put("README.md"), "README.md"),
    "a study that was edited": (put("study.yaml"), "study.yaml"),
    "notes within a run": (put("big-seed-0/notes.md"), "notes.md"),
    "a photo in a run that is unfinished": (put("big-seed-0.partial/cat.jpg"), "cat.jpg"),
    "another run": (lambda folder: run(folder / "mine"), "mine/README.md"),
    "a folder in place of a run": (put("big-seed-0/hf_compress_manifest.json"), MANIFEST),
    "a link in place of a run": (
        lambda folder: (
            (folder / "big-seed-0").rename(folder.parent / "big")
            and (folder / "big-seed-0").symlink_to(folder.parent / "big")
        ),
        "big-seed-0",
    ),
    "without its manifest": (without_manifest, "is not a study"),
}


@pytest.mark.parametrize("case", STUDIES)
def test_a_study_is_replaced_only_where_all_of_it_is_ours(case, output, monkeypatch):
    change, named = STUDIES[case]
    study(output, monkeypatch)
    first = contents(output)
    change(output)
    before = contents(output.parent)
    if named is None:
        study(output, monkeypatch, overwrite=True)
        assert contents(output).keys() == first.keys()
        return
    with pytest.raises(UsageError, match=named):
        study(output, monkeypatch, overwrite=True)
    assert contents(output.parent) == before


@pytest.mark.parametrize("case", STUDIES)
def test_a_resumed_study_replaces_only_what_it_wrote(case, output, monkeypatch):
    change, _ = STUDIES[case]
    study(output, monkeypatch, stop_at="small")
    change(output)
    theirs = {name for name, content in contents(output).items() if content == MINE.encode()}
    with suppress(UsageError):
        study(output, monkeypatch, resume=True)
    after = contents(output)
    assert {name: after[name] for name in theirs} == dict.fromkeys(theirs, MINE.encode())
    if case in ("notes", "another run", "as it was made"):
        assert after["report.json"] == b"2 runs"


def test_a_study_that_is_replaced_discards_what_was_unfinished(output, monkeypatch):
    study(output, monkeypatch, stop_at="small")
    assert (output / "small-seed-0.partial").exists()
    study(output, monkeypatch, stop_at="big", overwrite=True)
    assert not (output / "small-seed-0.partial").exists()


def test_runs_and_studies_do_not_replace_each_other(output, monkeypatch):
    study(output, monkeypatch)
    before = contents(output)
    for options in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(UsageError):
            run(output, **options)
    assert contents(output) == before
    run(output / "big-seed-0", overwrite=True)
    for options in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(UsageError, match="is not a study: it is a run folder"):
            study(output / "big-seed-0", monkeypatch, **options)
