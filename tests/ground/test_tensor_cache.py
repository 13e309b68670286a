"""Tensors in files: computed once, checked, bounded, and safe between processes."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hf_compress.ground import tensor_cache
from hf_compress.ground.errors import UsageError
from hf_compress.ground.tensor_cache import TensorCache, most_bytes, shared_folder


def key(number):
    return f"{number:064x}"


class Counted:
    def __init__(self, tensor):
        self.tensor, self.calls = tensor, 0

    def __call__(self):
        self.calls += 1
        return self.tensor


@pytest.fixture
def answers():
    return Counted(torch.randn(50, 7, generator=torch.Generator().manual_seed(0)))


def test_a_tensor_is_computed_once_and_read_bit_by_bit(tmp_path, answers):
    cache = TensorCache(tmp_path / "new" / "folder")
    first, second = cache.get(key(1), answers), TensorCache(cache.folder).get(key(1), answers)
    assert answers.calls == 1
    assert torch.equal(first, answers.tensor)
    assert torch.equal(second, answers.tensor)
    assert f"{key(1)}.safetensors" in Path("/proc/self/maps").read_text()


def truncated(file):
    os.truncate(file, file.stat().st_size // 2)


def one_bit_flipped(file):
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)


def emptied(file):
    file.write_bytes(b"")


def of_something_else(file):
    save_file({"weight": torch.zeros(3)}, file)


def without_checksum(file):
    save_file({"tensor": torch.zeros(50, 7)}, file)


@pytest.mark.parametrize("damage", [truncated, one_bit_flipped, emptied, of_something_else, without_checksum])
def test_a_damaged_file_is_computed_again(tmp_path, answers, damage):
    cache = TensorCache(tmp_path)
    cache.get(key(1), answers)
    damage(tmp_path / f"{key(1)}.safetensors")
    assert torch.equal(cache.get(key(1), answers), answers.tensor)
    assert answers.calls == 2
    cache.get(key(1), answers)
    assert answers.calls == 2


def test_what_was_not_used_for_longest_is_removed(tmp_path, answers):
    TensorCache(tmp_path).get(key(0), answers)
    size = (tmp_path / f"{key(0)}.safetensors").stat().st_size
    cache = TensorCache(tmp_path, limit=3 * size)
    for number, age in ((0, 30), (1, 20), (2, 10)):
        cache.get(key(number), answers)
        moment = (tmp_path / f"{key(number)}.safetensors").stat().st_mtime - age
        os.utime(tmp_path / f"{key(number)}.safetensors", (moment, moment))
    in_use = cache.get(key(0), answers)
    expected = in_use.clone()
    cache.get(key(3), answers)
    assert {file.name[-13] for file in tmp_path.glob("*.safetensors")} == {"0", "2", "3"}
    cache.get(key(4), answers)
    cache.get(key(5), answers)
    assert {file.name[-13] for file in tmp_path.glob("*.safetensors")} == {"3", "4", "5"}
    assert torch.equal(in_use, expected)


def test_a_failure_leaves_nothing_behind(tmp_path, answers):
    cache = TensorCache(tmp_path)

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.get(key(1), fail)
    assert [file.name for file in tmp_path.iterdir() if not file.name.startswith("lock")] == []
    assert torch.equal(cache.get(key(1), answers), answers.tensor)


def compute_slowly(folder):
    def compute():
        with open(folder / "calls", "a") as calls:
            calls.write("x")
        time.sleep(0.3)
        return torch.ones(100, 10)

    assert TensorCache(folder, limit=10**6).get(key(1), compute).eq(1).all()


def test_two_processes_compute_once(tmp_path):
    processes = [multiprocessing.get_context("fork").Process(target=compute_slowly, args=(tmp_path,)) for _ in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert (tmp_path / "calls").read_text() == "x"


def test_the_shared_folder_is_taken_where_there_is_room(tmp_path, monkeypatch):
    shared, own = tmp_path / "shared", tmp_path / "own"
    monkeypatch.setenv("HF_COMPRESS_CACHE", str(shared))
    monkeypatch.setenv("HF_COMPRESS_CACHE_GB", "0.001")
    assert shared_folder() == shared
    assert most_bytes() == 10**6
    assert TensorCache.for_bytes(10**6, own).folder == shared
    assert TensorCache.for_bytes(10**6 + 1, own).folder == own
    monkeypatch.setattr(tensor_cache.os, "access", lambda path, mode: False)
    assert TensorCache.for_bytes(1, own).folder == own
    monkeypatch.undo()
    (tmp_path / "file").touch()
    monkeypatch.setenv("HF_COMPRESS_CACHE", str(tmp_path / "file" / "cache"))
    assert TensorCache.for_bytes(1, own).folder == own


def test_the_folder_lies_in_that_of_the_hub(monkeypatch):
    monkeypatch.delenv("HF_COMPRESS_CACHE", raising=False)
    assert str(shared_folder()) == os.path.join(os.environ["HF_HOME"], "hf-compress")


@pytest.mark.parametrize("size", ["much", "-1", "nan", "inf"])
def test_a_size_that_is_none_is_one_sentence(monkeypatch, size):
    monkeypatch.setenv("HF_COMPRESS_CACHE_GB", size)
    with pytest.raises(UsageError, match="HF_COMPRESS_CACHE_GB cannot be"):
        most_bytes()
