"""Tensors that lie in files while they are not read."""

import copy
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_compress.steps.pruning.remove.removal import remove_units
from hf_compress.steps.pruning.repair import spilling
from hf_compress.steps.pruning.repair.least_squares import least_squares
from hf_compress.steps.pruning.repair.spilling import Spilling
from hf_compress.steps.pruning.tracing.groups import find_groups
from tests.nets import Net, assert_all_is_over, photos

KIB = 1024
repairing = import_module(least_squares.__module__)  # the package has the function by this name


@pytest.fixture(autouse=True)
def tensors_are_large(monkeypatch):
    monkeypatch.setattr(spilling, "SMALL", 512)


def made(value):
    """Return a tensor of a kibibyte that an operation has made."""
    return torch.full((256,), float(value))


def in_memory(tensor):
    return tensor.untyped_storage().nbytes() > 0


def test_what_was_read_longest_ago_is_in_files_and_comes_back_when_it_is_read():
    with Spilling(3 * KIB) as spilled:
        tensors = [made(value) for value in range(5)]
        assert [in_memory(tensor) for tensor in tensors] == [False, False, True, True, True]
        assert tensors[2].sum() == 2 * 256
        assert tensors[0].view(16, 16)[3:].sum() == 0
        assert [in_memory(tensor) for tensor in tensors] == [True, False, True, False, True]
        tensors[1] += 10
        assert spilled.held <= 3 * KIB
    assert all(in_memory(tensor) for tensor in tensors)
    assert all(tensor.equal(made(value)) for tensor, value in zip(tensors, (0, 11, 2, 3, 4), strict=True))


def test_one_operation_may_take_more():
    with Spilling(KIB) as spilled:
        assert torch.cat([made(1), made(2), made(3)]).sum() == 6 * 256
        assert spilled.held <= KIB


def test_files_go_with_what_lies_in_them():
    with Spilling(KIB) as spilled:
        folder = Path(spilled._folder.name)
        tensors = [made(value) for value in range(4)]
        assert len(list(folder.iterdir())) == 3
        del tensors[1:3]
        assert len(list(folder.iterdir())) == 1
        tensors.clear()
        assert not list(folder.iterdir())
        assert spilled.held == 0
    assert not folder.exists()


def test_what_was_there_before_and_what_numpy_has_stays_in_memory():
    parameter = torch.nn.Parameter(made(1))
    with torch.no_grad(), Spilling(KIB):
        view, lent = parameter.view(16, 16), made(2)
        array = lent.numpy()
        others = [made(3), made(4)]
        assert [in_memory(tensor) for tensor in (view, lent, *others)] == [True, True, False, True]
        assert array.sum() == 2 * 256


def test_a_repair_gives_the_same_weights_however_little_memory_it_has(monkeypatch):
    model = Net()
    smaller = copy.deepcopy(model)
    groups, _ = find_groups(smaller, photos(1)[0][:1])
    kept = remove_units(smaller, groups, {"wide": [0, 1, 2, 3]}, {})
    repaired = []
    for most in (2**29, 0):
        monkeypatch.setattr(repairing, "MOST_BYTES", most)
        repaired.append(copy.deepcopy(smaller))
        least_squares(model, repaired[-1], kept, photos())
    plenty, little = (each.state_dict() for each in repaired)
    assert all(value.equal(little[name]) for name, value in plenty.items())
    assert any(not value.equal(plenty[name]) for name, value in smaller.state_dict().items())
    assert_all_is_over(model, smaller)


def test_the_memory_of_a_repair_does_not_grow_with_the_images(monkeypatch):
    held = []

    class Watched(Spilling):
        def __torch_dispatch__(self, *arguments):
            out = super().__torch_dispatch__(*arguments)
            held.append(self.held)
            return out

    monkeypatch.setattr(repairing, "Spilling", Watched)
    monkeypatch.setattr(repairing, "MOST_BYTES", 2**18)
    for images in (3, 30):
        held.clear()
        least_squares(Net(), Net(hidden=11, seed=1), {("wide", "weight", 0): np.arange(11)}, photos(images))
        assert 2**16 < max(held) <= 2**18
