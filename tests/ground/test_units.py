"""A unit is done once, appears whole, and does not depend on what happened before it."""

import random

import numpy as np
import pytest
import torch

from hf_compress.ground.units import Units


@pytest.fixture
def units(tmp_path):
    return Units(tmp_path / "units", seed=7)


def test_a_unit_is_done_once(units):
    calls = []

    def work(new, in_progress):
        calls.append(new)
        (new / "result").write_text("42")

    first, second = units.once("a unit", work), units.once("a unit", work)
    assert first == second
    assert (first / "result").read_text() == "42"
    assert len(calls) == 1
    assert units.done() == ["a-unit"]


def test_an_interrupted_unit_starts_with_an_empty_folder_and_what_it_kept_in_progress(units):
    def interrupted(new, in_progress):
        (new / "half").touch()
        in_progress.mkdir()
        (in_progress / "epoch").write_text("3")
        raise KeyboardInterrupt

    def resumed(new, in_progress):
        assert not any(new.iterdir())
        (new / "result").write_text((in_progress / "epoch").read_text())

    assert not units.hold_work()
    with pytest.raises(KeyboardInterrupt):
        units.once("unit", interrupted)
    assert units.done() == []
    assert units.hold_work()
    assert (units.once("unit", resumed) / "result").read_text() == "3"
    assert sorted(place.name for place in units.folder.iterdir()) == [".sums-unit.json", "unit"]


def test_every_unit_starts_with_the_same_random_state(units):
    def draw():
        return [random.random(), np.random.rand(), torch.rand(()).item()]

    first = units.value("first", draw)
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert units.value("second", draw) == first
    assert Units(units.folder.with_name("other"), seed=8).value("first", draw) != first


def test_a_value_is_what_is_on_the_disk_also_for_who_made_it(units):
    value = {"accuracy": 0.1 + 0.2, 8: (1, None)}
    found = [units.value("value", lambda: value), Units(units.folder, 7).value("value", lambda: None)]
    assert found == [{"accuracy": 0.1 + 0.2, "8": [1, None]}] * 2


def test_units_are_listed_in_the_order_in_which_they_were_finished(units):
    for name in ("b", "c", "a"):
        units.value(name, dict)
    assert units.done() == ["b", "c", "a"]
