"""Files are whole or not there, and what a disk refuses is said in words."""

import os
import resource

import pytest
import torch
from child_process import in_child
from safetensors.torch import save_file

from hf_compress.ground.files import read_json, whole_file, whole_folder, write_json, write_problem, write_text


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "a.txt"
    write_text(file, "old")
    with pytest.raises(ZeroDivisionError), whole_file(file) as new:
        new.write_text("half")
        1 / 0  # noqa: B018
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_killed_process_leaves_the_old_file_and_folder(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with whole_folder(tmp_path / "folder") as new:
        (new / "b.txt").write_text("old")

    def die():
        with whole_file(tmp_path / "a.txt") as file, whole_folder(tmp_path / "folder") as folder:
            file.write_text("new")
            (folder / "b.txt").write_text("new")
            os._exit(9)

    assert in_child(die) == 9
    assert (tmp_path / "a.txt").read_text() == "old"
    assert (tmp_path / "folder" / "b.txt").read_text() == "old"
    with whole_folder(tmp_path / "folder") as new:
        assert not any(new.iterdir())
    assert not any((tmp_path / "folder").iterdir())


def test_json_keeps_every_bit_of_a_float(tmp_path):
    numbers = [*torch.rand(100, dtype=torch.float64).tolist(), 1e-320, 1 / 3]
    write_json(tmp_path / "a.json", numbers)
    assert read_json(tmp_path / "a.json") == numbers


@pytest.mark.parametrize(
    "write",
    [
        lambda file: file.write_bytes(bytes(2**20)),
        lambda file: torch.save(torch.zeros(2**18), file),
        lambda file: save_file({"a": torch.zeros(2**18)}, file),
    ],
    ids=["python", "torch", "safetensors"],
)
def test_a_write_that_the_system_refuses_is_recognised(tmp_path, write):
    def refused():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
        try:
            write(tmp_path / "file")
        except Exception as error:
            os._exit(3 if write_problem(error, tmp_path) else 4)

    assert in_child(refused) == 3


def test_other_errors_are_none_of_the_disk(tmp_path):
    assert write_problem(RuntimeError("shapes do not match"), tmp_path) is None
    assert write_problem(FileNotFoundError(2, "No such file", "photo.png"), tmp_path) is None
    assert write_problem(PermissionError(13, "Permission denied", "/etc/shadow"), tmp_path) is None
    problem = write_problem(PermissionError(13, "", str(tmp_path / "a")), tmp_path)
    assert problem == f"Permission denied ({tmp_path / 'a'})"
