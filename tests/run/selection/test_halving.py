"""Who competes, and who is left."""

import random

import pytest

from hf_compress.run.selection.candidates import Candidate
from hf_compress.run.selection.halving import entrants, halve


def candidate(model, width=1.0, macs=0):
    return Candidate(model, width, {"macs": macs})


def test_the_widest_of_every_family_compete_first():
    fitting = [
        candidate("small", 0.5, 10),
        candidate("small", 1.0, 20),
        candidate("large", 0.25, 30),
        candidate("large", 0.5, 90),
        candidate("only", 1.0, 5),
    ]
    expected = ["large x0.5", "small x1", "only x1", "large x0.25", "small x0.5"]
    assert [str(c) for c in entrants(fitting, 9)] == expected
    assert [str(c) for c in entrants(fitting, 2)] == expected[:2]


def test_each_rung_keeps_the_better_half():
    accuracy = {"a": [0.1, 0.9], "b": [0.5, 0.6, 0.7], "c": [0.4, 0.7, 0.6], "d": [0.3], "e": [0.6, 0.5]}
    ranked = halve([candidate(name) for name in "abcde"], lambda c, rung: accuracy[c.model][rung])
    assert "".join(c.model for c in ranked) == "bceda"
    assert {c.model: len(c.accuracies) for c in ranked} == {"b": 3, "c": 3, "e": 2, "d": 1, "a": 1}


def test_fewer_macs_win_a_tie():
    ranked = halve([candidate("a", macs=2), candidate("b", macs=1), candidate("c", macs=3)], lambda c, rung: 0.5)
    assert [c.model for c in ranked] == ["b", "a", "c"]


def test_one_candidate_needs_no_training():
    assert [c.model for c in halve([candidate("a")], lambda c, rung: 1 / 0)] == ["a"]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7, 9])
def test_the_best_wins_when_more_training_does_not_change_the_order(number):
    order = random.Random(number).sample(range(100), number)
    ranked = halve([candidate(str(accuracy)) for accuracy in order], lambda c, rung: int(c.model))
    assert [int(c.model) for c in ranked] == sorted(order, reverse=True)
    assert sum(len(c.accuracies) for c in ranked) < 3 * number
