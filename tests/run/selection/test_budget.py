"""Costs without memory are those of the built model, and a budget lets through what it should."""

import pytest
import torch

from hf_compress.ground.errors import RunError
from hf_compress.models.students import STUDENTS, register_student
from hf_compress.run.selection.candidates import Blueprint, Candidate, hint
from hf_compress.run.selection.fitting import Timer, fit_to_budget, nothing_fits
from hf_compress.run.selection.select import confirmed
from hf_compress.sections.base import validate
from hf_compress.sections.models import BudgetSection

BLUEPRINT = Blueprint(list("abc"), 32)


def budget(**limits):
    return validate(BudgetSection, limits)


def candidate(model, width, **costs):
    return Candidate(model, width, {"parameters": 100, "macs": 1000, "bytes": 400} | costs)


def no_stopwatch(candidates):
    raise AssertionError("there is no latency in the budget")


def test_every_architecture_is_a_candidate_in_every_width(monkeypatch):
    resnet = STUDENTS.get("resnet18").build
    monkeypatch.setattr(STUDENTS, "_entries", {"resnet18": STUDENTS.get("resnet18")})
    register_student("another", "of a third party")(lambda width, **labels: resnet(width / 2, **labels))
    found = {str(candidate): candidate.costs for candidate in BLUEPRINT.candidates()}
    assert list(found) == ["another x0.25", "another x0.5", "resnet18 x0.25", "resnet18 x0.5"]
    assert found["another x0.5"] == found["resnet18 x0.25"] == BLUEPRINT.static_costs("resnet18", 0.25)


def test_what_cannot_take_images_of_this_size_is_left_out(monkeypatch):
    entries = {name: STUDENTS.get(name) for name in ("convnext_atto", "resnet18")}
    monkeypatch.setattr(STUDENTS, "_entries", entries)
    assert {candidate.model for candidate in Blueprint(list("abc"), 16).candidates()} == {"resnet18"}


def test_a_bound_is_kept_to_the_last_unit():
    candidates = [candidate("a", 1, parameters=100), candidate("b", 1, parameters=101), candidate("c", 1, macs=5001)]
    fitting = fit_to_budget(candidates, budget(parameters=100, macs=5000).limits, no_stopwatch)
    assert [c.model for c in fitting] == ["a"]
    assert [c.misses for c in candidates] == [
        None,
        "more than the budget: 101 parameters",
        "more than the budget: 5.00 k MACs",
    ]


def test_latency_is_measured_from_narrow_to_wide_until_a_family_is_too_slow():
    candidates = [candidate(model, width) for model in "ab" for width in (0.5, 1.0, 1.4)]
    candidates.append(candidate("c", 0.5, macs=10_000))
    milliseconds = {("a", 0.5): 3, ("a", 1.0): 4.6, ("b", 0.5): 1, ("b", 1.0): 2, ("b", 1.4): 4.5}
    asked = []

    def stopwatch(timed):
        asked.append([str(c) for c in timed])
        return [milliseconds[c.model, c.width] for c in timed]

    fitting = fit_to_budget(candidates, budget(latency_ms=5, macs=2000).limits, stopwatch)
    assert asked == [["a x0.5", "b x0.5"], ["a x1", "b x1"], ["b x1.4"]]
    assert [str(c) for c in fitting] == ["a x0.5", "b x0.5", "b x1", "b x1.4"]
    reasons = {str(c): c.misses for c in candidates if c.misses}
    assert reasons == {
        "a x1": "more than 90% of the budget: 4.60 ms",
        "a x1.4": "wider than a x1, which is too slow",
        "c x0.5": "more than the budget: 10.00 k MACs",
    }


def test_the_timer_times_what_it_builds_beside_another_model():
    candidates = [Candidate("mobilenet_v1", 0.25, {}), Candidate("resnet18", 0.25, {})]
    teacher = BLUEPRINT.build(candidates[1])
    measured = Timer(BLUEPRINT, repeats=3)(candidates, beside=teacher)
    assert len(measured) == 2
    assert all(0 < milliseconds < 10_000 for milliseconds in measured)


def test_the_lowest_median_of_the_rounds_counts(monkeypatch):
    rounds = iter([(3.0, 5.0), (2.0, 6.0), (4.0, 5.5)])

    def measured(models, images, batch_sizes, repeats, threads):
        return [{"batch_1": {"p50_ms": median}} for median in next(rounds)]

    monkeypatch.setattr("hf_compress.run.selection.fitting.measure_latency", measured)
    candidates = [Candidate("mobilenet_v1", 0.25, {}), Candidate("resnet18", 0.25, {})]
    assert Timer(BLUEPRINT)(candidates) == [2.0, 5.0]


def test_the_nearest_is_named_when_nothing_fits():
    limits = budget(parameters=50, latency_ms=2).limits
    candidates = [candidate("a", 1, parameters=90), candidate("b", 1, parameters=40), candidate("c", 1, parameters=45)]
    assert not fit_to_budget(candidates, limits, lambda timed: [{"b": 4, "c": 3}[c.model] for c in timed])
    text = str(nothing_fits(candidates, limits))
    assert "no student is within the budget of 50 parameters, 2.00 ms" in text
    assert "the nearest is c x1 with 45 parameters, 3.00 ms" in text


def test_the_nearest_is_found_without_latency_where_none_was_measured():
    limits = budget(parameters=10, latency_ms=2).limits
    candidates = [candidate("a", 1, parameters=90), candidate("b", 1, parameters=40)]
    assert not fit_to_budget(candidates, limits, no_stopwatch)
    assert "the nearest is b x1 with 40 parameters; raise" in str(nothing_fits(candidates, limits))


def test_the_choice_must_be_fast_enough_when_measured_afresh():
    ranked = [candidate("a", 1), candidate("b", 1)]
    lines = []
    afresh = {"a": 5.1, "b": 5.0}
    chosen = confirmed(ranked, budget(latency_ms=5), lambda c: afresh[c.model], lines.append)
    assert (chosen.model, chosen.costs["latency_ms"]) == ("b", 5.0)
    assert ranked[0].misses == "5.10 ms when measured afresh"
    assert lines == ["student: a x1 took 5.10 ms when measured afresh"]
    with pytest.raises(RunError, match="more than 4 ms when it was measured afresh"):
        confirmed(ranked, budget(latency_ms=4), lambda c: afresh[c.model], lines.append)
    assert confirmed(ranked, budget(macs=5000), no_stopwatch, lines.append) is ranked[0]


def test_less_than_half_of_the_teacher_is_a_hint():
    assert hint(candidate("a", 1), 200) is None
    assert hint(candidate("a", 1), None) is None
    assert hint(candidate("a", 0.5), 201).startswith("a x0.5 has 49.8% of the teacher's parameters")


def test_the_costs_take_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    BLUEPRINT.static_costs("resnet18", 0.25)
    assert torch.equal(torch.rand(1), expected)
