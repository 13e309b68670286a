"""The folder of an unfinished run: who may go on with it, and that nothing is lost on the way."""

import itertools
import os
import resource

import pytest
import torch
from child_process import in_child
from PIL import Image
from reports import report

from hf_compress.ground.errors import Diverged, RunError, UsageError
from hf_compress.report.run import write_run
from hf_compress.run.folder import RunFolder, changed_keys
from hf_compress.run.pipeline import compress
from hf_compress.run.recipe import Recipe


def recipe(**sections):
    steps = [{"finetune": {"epochs": 2}}]
    return Recipe.from_dict({"student": {"model": "resnet18"}, "data": "digits", "steps": steps} | sections)


def write(files):
    write_run(files, recipe().to_yaml(), report())


def write_marked(files):
    write(files)
    (files / "mark").touch()


def finished(output, write=write):
    with RunFolder(output, recipe()) as folder:
        folder.finish(write)


def interrupted(output, **options):
    """Leave a run after its first unit."""
    with pytest.raises(KeyboardInterrupt), RunFolder(output, recipe(), **options) as folder:
        folder.units.value("first", lambda: 1)
        raise KeyboardInterrupt


@pytest.fixture
def output(tmp_path):
    return tmp_path / "runs" / "out"


def test_a_run_leaves_nothing_but_its_folder(output):
    finished(output)
    assert list(output.parent.iterdir()) == [output]


def test_a_run_that_did_nothing_leaves_nothing(output):
    with pytest.raises(ValueError, match="x"), RunFolder(output, recipe()):
        raise ValueError("x")
    assert list(output.parent.iterdir()) == []


def test_unfinished_work_is_neither_discarded_nor_continued_unasked(output):
    interrupted(output)
    with pytest.raises(UsageError, match=r"unfinished run: .*--resume.*--overwrite"), RunFolder(output, recipe()):
        pass
    with pytest.raises(KeyError), RunFolder(output, recipe(), resume=True) as folder:
        assert folder.resumed
        assert folder.units.value("first", lambda: 2) == 1
        raise KeyError
    with RunFolder(output, recipe(), overwrite=True) as folder:
        assert not folder.resumed
        assert "first" not in folder.units.done()


def test_an_error_says_how_to_go_on_where_something_was_done(output):
    with pytest.raises(RunError) as failed, RunFolder(output, recipe()) as folder:
        folder.units.value("first", lambda: 1)
        raise RunError("a reason")
    assert "--resume" in failed.value.__notes__[0]
    with pytest.raises(Diverged) as failed, RunFolder(output, recipe(), resume=True):
        raise Diverged("the loss became nan", {"step": 3})
    assert not hasattr(failed.value, "__notes__")


def test_resume_without_anything_to_resume_starts(output):
    with RunFolder(output, recipe(), resume=True) as folder:
        assert not folder.resumed
        folder.finish(write)
    assert output.exists()


def test_another_recipe_is_told_apart_by_its_keys(output):
    interrupted(output)
    other = recipe(steps=[{"finetune": {"epochs": 3}}], seed=1)
    with pytest.raises(UsageError) as failed, RunFolder(output, other, resume=True):
        pass
    assert "'steps.0.finetune.epochs' was 2 and is 3, 'seed' was 0 and is 1" in str(failed.value)
    published = recipe(publish={"to": "me/model"})
    with RunFolder(output, published, resume=True) as folder:
        assert folder.resumed


def test_a_finished_run_is_left_alone(output):
    finished(output)
    with RunFolder(output, recipe(), resume=True) as folder:
        assert folder.finished.report == report()
    with pytest.raises(UsageError, match=r"another recipe: 'seed' was 0 and is 2"):
        RunFolder(output, recipe(seed=2), resume=True).__enter__()
    with pytest.raises(UsageError, match="pass --overwrite"):
        RunFolder(output, recipe()).__enter__()
    assert list(output.parent.iterdir()) == [output]


def test_a_run_that_replaces_another_may_be_resumed(output):
    finished(output, write_marked)
    interrupted(output, overwrite=True)
    assert (output / "mark").exists()
    with RunFolder(output, recipe(), resume=True) as folder:
        assert folder.resumed
        folder.finish(write)
    assert not (output / "mark").exists()


def test_the_commits_of_a_finished_run_do_not_make_another_recipe_of_it():
    earlier = {"teacher": {"model": "a/b", "revision": "c" * 40}, "steps": [{"prune": {"exclude": ["x"]}}]}
    now = {"teacher": {"model": "a/b", "revision": "main"}, "steps": [{"prune": {"exclude": ["x"]}}]}
    assert changed_keys(earlier, now, revisions=False) == ""
    assert changed_keys(earlier, now) == f"'teacher.revision' was '{'c' * 40}' and is 'main'"


def test_two_processes_do_not_share_a_folder(output):
    with RunFolder(output, recipe()) as folder:
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(UsageError, match="by another process"):
                RunFolder(output, recipe(), **options).__enter__()
        folder.finish(write)


def test_a_resumed_run_loads_the_commits_with_which_it_began(output):
    section = {"model": "a/b", "finetune": {}}
    first = recipe(teacher=section)
    with pytest.raises(KeyError), RunFolder(output, first) as folder:
        folder.pin(first, teacher="c" * 40)
        folder.units.value("first", lambda: 1)
        raise KeyError
    with RunFolder(output, first, resume=True) as folder:
        assert folder.pin(first).teacher.revision == "c" * 40
        assert folder.pin(first, student="d" * 40).student.revision == "d" * 40
        assert folder.pin(first, student="").student.revision is None  # of a search: not that of another candidate


def test_other_images_are_noticed(output):
    with pytest.raises(KeyError), RunFolder(output, recipe()) as folder:
        folder.remember(images={"train": 10})
        folder.units.value("first", lambda: 1)
        raise KeyError
    with pytest.raises(RunError, match="the images are not those"), RunFolder(output, recipe(), resume=True) as folder:
        folder.remember(images={"train": 11})


def test_where_both_are_asked_for_as_by_a_study_the_unfinished_run_alone_is_to_go(output):
    with pytest.raises(KeyError), RunFolder(output, recipe()) as folder:
        folder.units.value("first", lambda: 1)
        raise KeyError
    both = {"overwrite": True, "resume": True}
    with (
        pytest.raises(UsageError, match=r"or remove '.*\.partial' to start anew"),
        RunFolder(output, recipe(seed=1), **both),
    ):
        pass


def test_a_picture_that_was_exchanged_meanwhile_is_noticed(output, tmp_path):
    for label in ("a", "b"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(20):
            colour = (number, 99 * (label == "a"), 7)
            Image.new("RGB", (8, 8), colour).save(tmp_path / "photos" / label / f"{number}.png")
    plain = Recipe.from_dict(
        {
            "student": {"model": "resnet18", "width": 0.0625, "image_size": 16},
            "data": str(tmp_path / "photos"),
            "steps": [{"finetune": {"epochs": 1}}, {"finetune": {"epochs": 1}}],
        }
    )

    def stop(line):
        if line.startswith("step 2"):
            raise KeyError

    with pytest.raises(KeyError):
        compress(plain, output, log=stop)
    one, other = (tmp_path / "photos" / label / "3.png" for label in "ab")
    one.rename(tmp_path / "photos" / "kept.png")
    other.rename(one)
    (tmp_path / "photos" / "kept.png").rename(other)
    with pytest.raises(RunError, match="the pictures are not those"):
        compress(plain, output, resume=True, log=lambda line: None)


def test_only_the_time_of_the_run_itself_counts(output, monkeypatch):
    clock = 1000.0
    monkeypatch.setattr("hf_compress.run.folder.time.time", lambda: clock)
    with pytest.raises(KeyError), RunFolder(output, recipe()) as folder:
        folder.units.value("first", lambda: 1)
        os.utime(folder.units.folder / "first", (1060, 1060))
        for place in (output.with_name("out.partial")).rglob("*"):
            os.utime(place, (1060, 1060))
        raise KeyError
    clock = 5000.0
    with RunFolder(output, recipe(), resume=True) as folder:
        clock = 5030.0
        assert folder.seconds == 90.0


def test_a_kill_while_the_result_is_put_into_place_loses_neither_result(tmp_path):
    """The process dies at its first renaming or removal of a file or folder, at its second, and so on."""
    for fatal in itertools.count():
        output = tmp_path / str(fatal) / "out"
        finished(output, write_marked)
        status = in_child(lambda output=output, fatal=fatal: replace_and_die(output, fatal))
        old = (output / "mark").exists()
        replaced = output.with_name("out.partial") / "replaced"
        assert old or (output / "report.json").exists() or (replaced / "mark").exists()
        with RunFolder(output, recipe(), resume=True) as folder:
            if folder.finished is None:
                assert folder.resumed
                folder.finish(write)
        assert (output / "report.json").exists()
        assert not (output / "mark").exists()
        assert list(output.parent.iterdir()) == [output]
        if status == 0:
            break
        assert status == 9
    assert fatal > 10


def replace_and_die(output, fatal):
    calls = itertools.count()

    def mortal(call):
        def wrapped(*arguments, **options):
            if next(calls) == fatal:
                os._exit(9)
            return call(*arguments, **options)

        return wrapped

    with RunFolder(output, recipe(), overwrite=True) as folder:
        folder.units.value("first", lambda: 1)
        for name in ("replace", "unlink", "rmdir"):
            setattr(os, name, mortal(getattr(os, name)))
        folder.finish(write)


def test_a_full_disk_is_one_sentence_and_leaves_what_was_done(output):
    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        try:
            with RunFolder(output, recipe()) as folder:
                folder.units.value("first", lambda: 1)
                folder.units.once("second", lambda new, _: torch.save(torch.zeros(2**18), new / "weights"))
        except RunError as error:
            said = f"output '{output}' cannot be written: the disk is full" in str(error)
            os._exit(3 if said and "--resume" in error.__notes__[0] else 4)

    assert in_child(fill) == 3
    with RunFolder(output, recipe(), resume=True) as folder:
        assert folder.units.done() == ["first"]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written: Not a directory"):
        RunFolder(tmp_path / "file" / "out", recipe()).__enter__()
