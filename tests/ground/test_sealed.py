"""Sealed folders of unfinished work: an interruption leaves none that looks damaged."""

import os
import shutil
from pathlib import Path

import pytest

from hf_compress.ground import sealed
from hf_compress.ground.errors import RunError
from hf_compress.ground.sealed import refuse_damaged, remove_sealed, sealed_folder, sealed_in


class Killed(BaseException):
    pass


def killed(*_, **__):
    raise Killed


def half_removed(folder, *_, **__):
    if Path(folder).exists():
        next(Path(folder).iterdir()).unlink()
        raise Killed


def made(path):
    with sealed_folder(path) as new:
        (new / "weights").write_text("1")
        (new / "average").write_text("2")


def whole_in(folder):
    places = {*folder.glob("work*"), *sealed_in(folder)}
    for place in places:
        refuse_damaged(place, folder)
    return places


@pytest.mark.parametrize(
    ("owner", "name", "replacement"),
    [(Path, "rename", killed), (Path, "unlink", killed), (sealed.shutil, "rmtree", half_removed)],
)
def test_a_removal_that_is_killed_leaves_it_whole_or_gone(tmp_path, monkeypatch, owner, name, replacement):
    made(tmp_path / "work")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, replacement)
        remove_sealed(tmp_path / "work")
    assert whole_in(tmp_path) == ({tmp_path / "work"} if name == "rename" else set())


def test_what_is_killed_before_it_is_in_its_place_is_not_there(tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(os, "replace", lambda old, new: killed() if Path(new).name == "work" else shutil.move(old, new))
        made(tmp_path / "work")
    assert (tmp_path / ".sums-work.json").is_file() and whole_in(tmp_path) == set()
    made(tmp_path / "work")
    assert whole_in(tmp_path) == {tmp_path / "work"}


def test_one_that_is_lost_is_missed(tmp_path):
    made(tmp_path / "work")
    shutil.rmtree(tmp_path / "work")
    with pytest.raises(RunError, match="was damaged"):
        whole_in(tmp_path)
