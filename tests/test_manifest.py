"""Whatever lies in an output folder that no manifest names is neither replaced nor removed."""

import itertools
import json
import os
import string
import tempfile
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_files import in_child

from hf_compress import Study
from hf_compress.errors import CompressError, UsageError
from hf_compress.inputs import refuse_overlap
from hf_compress.manifest import MANIFEST, Manifest, adding, claim, entries
from hf_compress.recipe import Recipe
from hf_compress.run import write_run
from hf_compress.run_folder import RunFolder
from hf_compress.study import running

MINE = "years of work"


def recipe(**sections):
    steps = [{"finetune": {"epochs": 2}}]
    return Recipe.from_dict({"student": {"model": "resnet18"}, "data": "digits", "steps": steps} | sections)


def write(files):
    write_run(files, recipe().to_yaml(), {"rows": [], "seconds": 1.0})
    (files / "figures").mkdir()
    (files / "figures" / "layers.png").write_text("drawn")
    (files / "README.md").write_text("a card")


def run(output, **options):
    with RunFolder(output, recipe(), **options) as folder:
        return folder.finished or folder.finish(write)


def interrupted(output, **options):
    with pytest.raises(KeyboardInterrupt), RunFolder(output, recipe(), **options) as folder:
        folder.units.value("first", lambda: 1)
        raise KeyboardInterrupt


def put(*names, text=MINE):
    """Return a change of a folder: files of someone else."""

    def change(folder):
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def linked(name, to):
    return lambda folder: (folder / name).symlink_to(to)


def without_manifest(folder):
    (folder / MANIFEST).unlink()


def relinked(folder):
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to("report.json")


def moved_figures(folder):
    (folder / "figures").rename(folder.parent / "elsewhere")
    (folder / "figures").symlink_to(folder.parent / "elsewhere")


def exported(folder):
    with adding(folder) as new:
        (new / "model.onnx").write_text("graph")


def claims_all(folder):
    """A manifest that someone else wrote."""
    put("thesis.tex")(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"]["../thesis.tex"] = ["0"]
    (folder / MANIFEST).write_text(json.dumps(manifest))


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


def contents(folder):
    """Everything in a folder, to compare; links by where they lead."""
    return {
        name: os.readlink(folder / name)
        if (folder / name).is_symlink()
        else (folder / name).read_bytes() if (folder / name).is_file() else None
        for name in entries(folder)
    }  # fmt: skip


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
        (partial / "units" / "first" / "value.json").unlink()
        (partial / "units" / "first").rmdir()
        (partial / "units").rmdir()
    change(partial)
    before = contents(partial)
    if named is None:
        if options or case != "as it was left":
            run(output, **options)
            assert not partial.exists()
        return
    with pytest.raises(UsageError, match=f"out.partial' holds '{named}', which is not of an unfinished run"):
        run(output, **options)
    assert contents(partial) == before


@pytest.mark.parametrize("name", ["units/mine", "lock", "moving", "files", "begun.json"])
def test_a_folder_with_one_of_our_names_in_it_is_not_ours_therefore(name, output):
    partial = output.with_name("out.partial")
    put(name)(partial)
    for options in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UsageError, match="is not of an unfinished run"):
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
            put(*running.RESULTS, text=f"{len(finished)} runs")(new)

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


def test_files_are_added_beside_others_and_replaced_only_where_they_are_ours(tmp_path):
    folder = tmp_path / "model"
    put("config.json", "model.onnx.json")(folder)
    exported(folder)
    exported(folder)
    assert Manifest.of(folder).files.keys() == {"model.onnx"}
    for name in ("model.onnx", "model.onnx.json", "config.json"):
        put(name)(folder)
        with pytest.raises(UsageError, match=f"'{folder / name}' would be replaced"), adding(folder) as new:
            put(name, text="new")(new)
    (folder / "linked").symlink_to(tmp_path)
    for name in ("linked/new", "linked"):
        with pytest.raises(UsageError, match="would be replaced"):
            claim(folder, [name])
    with pytest.raises(UsageError, match="is no folder"):
        claim(folder / "config.json", ["a"])
    assert contents(folder).keys() == {"config.json", "model.onnx", "model.onnx.json", "linked", MANIFEST}


def test_a_kill_while_files_are_added_leaves_files_that_are_ours(tmp_path):
    """The process dies at its first renaming, at its second, and so on; then the same files are added again."""
    for fatal in itertools.count():
        folder = tmp_path / str(fatal)
        for text in ("old", None, "new"):
            if text:
                with adding(folder) as new:
                    put("a", "b/c", text=text)(new)
            elif in_child(lambda folder=folder, fatal=fatal: add_and_die(folder, fatal)) == 0:
                assert fatal > 3
                return
        assert Manifest.of(folder).owns(folder, "a")
        assert (folder / "b" / "c").read_text() == "new"


def add_and_die(folder, fatal):
    calls, replace = itertools.count(), os.replace

    def mortal(*arguments):
        if next(calls) == fatal:
            os._exit(9)
        return replace(*arguments)

    os.replace = mortal
    with adding(folder) as new:
        put("a", "b/c", text="between")(new)


HOSTILE = ["../x", "/etc/passwd", "a/../../x", "", ".", "a//b", "./a", 7, None]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_manifest_that_names_something_outside_is_none(name, tmp_path):
    text = Manifest("run", {"a": ["0"]}).text()
    assert Manifest.parsed(text.encode()).files == {"a": ["0"]}
    values = json.loads(text)
    assert Manifest.parsed(json.dumps(values | {"runs": [name]}).encode()) is None
    if isinstance(name, str):
        assert Manifest.parsed(json.dumps(values | {"files": {name: ["0"]}}).encode()) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"files": {}}', '{"format": "hf_compress manifest"}'])
def test_what_is_no_manifest(text):
    assert Manifest.parsed(text.encode()) is None
