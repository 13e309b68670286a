"""The figure shows who competed, the front and the choice."""

import pytest
from reports import SELECTION, report

from hf_compress.report.figures import selection


@pytest.fixture
def lines():
    axes = selection(report(selection=SELECTION)).axes[0]
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_all_that_competed_are_drawn_after_the_first_probe(lines):
    assert lines["first probe"] == [[2.0, 0.6], [3.0, 0.5], [4.0, 0.7]]


def test_the_pareto_front_is_that_of_the_first_probe(lines):
    assert lines["Pareto front of it"] == [[2.0, 0.6], [4.0, 0.7]]


def test_the_choice_is_marked_and_the_budget_drawn(lines):
    assert lines["chosen"] == [[2.0, 0.8]]
    assert [x for x, _ in lines["budget"]] == [5.0, 5.0]


def test_a_count_is_drawn_in_millions_where_latency_has_no_budget():
    rows = [row | {"macs": 2_500_000} for row in SELECTION["candidates"]]
    found = SELECTION | {"budget": {"macs": 3e6}, "candidates": rows}
    axes = selection(report(selection=found)).axes[0]
    assert axes.get_xlabel() == "MACs, M"
    assert {x for line in axes.lines if line.get_label() == "first probe" for x in line.get_xdata()} == {2.5}


def test_nothing_is_drawn_where_nothing_was_probed():
    unprobed = [{k: v for k, v in row.items() if k != "probe_accuracies"} for row in SELECTION["candidates"]]
    assert selection(report()) is None
    assert selection(report(selection=SELECTION | {"candidates": unprobed})) is None
