"""Whatever lies in an output folder that no manifest names is neither replaced nor removed."""

import os
import shutil
import string
import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outputs import (
    MINE,
    claims_all,
    contents,
    exported,
    interrupted,
    linked,
    moved_figures,
    put,
    recipe,
    relinked,
    run,
    without_manifest,
    write,
)

from hf_compress import Study
from hf_compress.ground.errors import CompressError, UsageError
from hf_compress.ground.manifest import MANIFEST
from hf_compress.run.folder import RunFolder
from hf_compress.run.inputs import refuse_overlap
from hf_compress.study import running

CHANGES = {
    "as it was made": (lambda folder: None, None),
    "a later export": (exported, None),
    "an empty folder in it": (lambda folder: (folder / "notes").mkdir(), None),
    "a file that is gone": (lambda folder: (folder / "README.md").unlink(), None),
    "photos": (put("photos/cat.jpg"), "photos/cat.jpg"),
    "a repository": (put(".git/HEAD"), ".git/HEAD"),
    "a hidden file": (put(".env"), ".env"),
    "a file beside the figures": (put("figures/mine.png"), "figures/mine.png"),
    "a card that was edited": (put("README.md"), "README.md"),
    "a report that was edited": (put("report.json", text="{}"), "report.json"),
    "a run within": (lambda folder: run(folder / "better"), "better/README.md"),
    "an unfinished run within": (lambda folder: interrupted(folder / "better"), "better.partial/begun.json"),
    "a link to a folder": (linked("data", "/"), "data"),
    "a link to nothing": (linked("data", "nowhere"), "data"),
    "a link in place of a file": (relinked, "README.md"),
    "a link in place of a folder": (moved_figures, "figures"),
    "a pipe": (lambda folder: os.mkfifo(folder / "pipe"), "pipe"),
    "a run of version 0.1": (without_manifest, "version 0.1"),
    "a manifest of something else": (put(MANIFEST), MANIFEST),
    "a manifest that names files outside": (claims_all, MANIFEST),
}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "runs" / "out"


@pytest.mark.parametrize("case", CHANGES)
def test_a_run_is_replaced_only_where_all_of_it_is_ours(case, output):
    change, named = CHANGES[case]
    run(output)
    change(output)
    before = contents(output.parent)
    if named is None:
        assert run(output, overwrite=True).report["seconds"] == 1.0
        assert contents(output).keys() == {"README.md", "report.json", "recipe.yaml", "figures/layers.png", MANIFEST}
    else:
        for options in ({"overwrite": True}, {}):  # without --overwrite nothing advises to pass it
            with pytest.raises(UsageError, match=named) as refused:
                run(output, **options)
            assert "pass --overwrite" not in str(refused.value)
        assert contents(output.parent) == before
    assert not output.with_name("out.partial").exists()


@pytest.mark.parametrize("files", [{"report.json": "{}"}, {"report.json": "{}", "recipe.yaml": "", "cat.jpg": MINE}])
def test_a_folder_with_a_report_in_it_is_not_ours_therefore(files, output):
    output.mkdir(parents=True)
    for name, text in files.items():
        put(name, text=text)(output)
    with pytest.raises(UsageError, match="is not a run folder"):
        run(output, overwrite=True)
    assert contents(output).keys() == files.keys()


def test_what_comes_into_the_folder_while_the_run_works_stays(output):
    run(output)
    with pytest.raises(UsageError, match=r"'notes\.txt'") as refused, RunFolder(output, recipe(), True) as folder:
        put("notes.txt")(output)
        folder.finish(write)
    assert "--resume" in refused.value.__notes__[0]
    (output / "notes.txt").rename(output.parent / "notes.txt")
    before = (output / "report.json").stat().st_ino
    with RunFolder(output, recipe(), resume=True) as folder:
        assert folder.finished
    assert (output / "report.json").stat().st_ino != before
    assert contents(output.parent)["notes.txt"] == MINE.encode()


def test_a_run_that_comes_there_meanwhile_is_not_replaced_unasked(output):
    with pytest.raises(UsageError, match="holds another run since"), RunFolder(output, recipe()) as folder:
        run(output.with_name("other")).folder.rename(output)
        folder.finish(write)
    assert (output / "report.json").is_file()


UNFINISHED = {
    "as it was left": (lambda folder: None, None),
    "killed while it began": (lambda folder: (folder / "begun.json").rename(folder / ".new-begun.json"), None),
    "a photo": (put("cat.jpg"), "cat.jpg"),
    "a folder of photos": (put("photos/cat.jpg"), "photos"),
    "begun by something else": (put("begun.json", text="{}"), "begun.json"),
    "damaged": (put("begun.json", text="{"), "begun.json"),
}


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
@pytest.mark.parametrize("case", UNFINISHED)
def test_unfinished_work_is_discarded_only_where_all_of_it_is_ours(case, options, output):
    change, named = UNFINISHED[case]
    interrupted(output)
    partial = output.with_name("out.partial")
    if case == "killed while it began":
        shutil.rmtree(partial / "units")
    change(partial)
    before = contents(partial)
    if named is None:
        if options or case != "as it was left":
            run(output, **options)
            assert not partial.exists()
        return
    says = (
        "out.partial/begun.json' is missing or was damaged"
        if named == "begun.json"
        else f"out.partial' holds '{named}', which is not of an unfinished run"
    )
    with pytest.raises(UsageError, match=says):
        run(output, **options)
    assert contents(partial) == before


@pytest.mark.parametrize("name", ["units/mine", "lock", "moving", "files", "begun.json"])
def test_a_folder_with_one_of_our_names_in_it_is_not_ours_therefore(name, output):
    partial = output.with_name("out.partial")
    put(name)(partial)
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UsageError, match=r"(is not of|proves that) an unfinished run"):
            run(output, **options)
    assert contents(partial) == {name: MINE.encode()}


NAMES = st.text(string.ascii_lowercase + ".-_ éß🦉", min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..")
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
OURS = st.sampled_from(["report.json", "recipe.yaml", "README.md", "figures/layers.png", "begun.json", MANIFEST])


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(PATHS | OURS, st.binary(max_size=20), max_size=4), *[st.booleans()] * 3)
def test_whatever_no_manifest_names_is_there_afterwards(files, made, partial, overwrite):
    """Files of any name come into an output folder or its `.partial`, after a run or without one."""
    with tempfile.TemporaryDirectory() as root:
        output = Path(root) / "out"
        if made:
            (interrupted if partial else run)(output)
        place = output.with_name("out.partial") if partial else output
        for name, content in files.items():
            with suppress(OSError):  # a file is where a folder should be
                put(name, text=content)(place)
        before = contents(Path(root))
        theirs = {name for name in files if (place / name).is_file() and (place / name).read_bytes() == files[name]}
        try:
            run(output, overwrite=overwrite, resume=not overwrite)
        except CompressError:
            assert contents(Path(root)) == before
        assert {name: (place / name).read_bytes() for name in theirs} == {name: files[name] for name in theirs}


READING = {
    "teacher": {"teacher": "read"},
    "a teacher of several": {"teacher": {"ensemble": ["a/b", "read"]}, "student": "resnet18"},
    "assistant": {"teacher": "a/b", "assistants": ["read"], "student": "resnet18", "steps": ["distill"]},
    "student": {"student": "read"},
    "data": {"data": "read"},
    "unlabelled images": {"data": {"path": "digits", "unlabelled": ["read"]}},
    "a link": {"data": "link"},
    "a path with dots": {"data": "./read/../read/"},
}


@pytest.mark.parametrize("output", ["read", "read/", "./read", "read/runs/out", "link/out", "above", "link"])
@pytest.mark.parametrize("case", READING)
def test_an_output_that_would_harm_what_the_recipe_reads_is_refused(case, output, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "above" / "read").mkdir(parents=True)
    (tmp_path / "above" / "read" / "cat.jpg").write_text(MINE)
    for link, to in {"read": "above/read", "link": "read"}.items():
        (tmp_path / link).symlink_to(to)
    reading = recipe(**READING[case])
    with pytest.raises(UsageError, match=r"^output '.*' (is|contains|lies in) the recipe's '"):
        RunFolder(output, reading, overwrite=True).__enter__()
    assert contents(tmp_path / "above") == {"read/cat.jpg": MINE.encode()}
    study = Study.from_dict(
        {name: value for name, value in reading.model_dump(mode="json").items() if name not in ("seed", "publish")}
        | {"runs": {"one": {}}}
    )
    with pytest.raises(UsageError, match="the recipe's"):
        running.run_study(study, output, overwrite=True)
    refuse_overlap(tmp_path / "beside", reading)


@pytest.mark.parametrize(("output", "refused"), [("tables", True), (".", True), ("tables/out", False), ("out", False)])
def test_a_table_that_a_step_reads_is_not_replaced(output, refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    put("tables/sensitivity.csv")(tmp_path)
    reading = recipe(steps=[{"prune": {"sensitivity": "tables/sensitivity.csv"}}])
    says = pytest.raises(UsageError, match=r"contains the recipe's 'steps\.0\.prune\.sensitivity'")
    with says if refused else nullcontext():
        refuse_overlap(Path(output), reading)


@pytest.mark.parametrize("output", [".", "..", "~", "~/..", "../here", "here-too"])
def test_a_run_never_moves_the_folder_in_which_the_user_is(output, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "here-too").symlink_to(".")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    for options in ({}, {"overwrite": True}):
        with pytest.raises(UsageError, match=r"(is|contains) the (current|home) folder"):
            run(output, **options)
    assert contents(tmp_path) == {"here/here-too": "."}


def test_names_of_architectures_and_words_are_no_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("resnet18", "digits", "teacher"):
        (tmp_path / name).mkdir()
        refuse_overlap(tmp_path / name, recipe())
