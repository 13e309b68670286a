"""Which point is the answer, which are trained, and what is said where the wish is too much."""

from math import isclose
from types import SimpleNamespace

import pytest

from hf_compress.auto import judging
from hf_compress.auto.deciding import Decision
from hf_compress.auto.judging import BRIEF, REPAIRED, TRAINED, Bench, Point
from hf_compress.auto.prediction import USUAL, WEIGHT, Prediction
from hf_compress.auto.running import Search
from hf_compress.auto.space import Choice
from hf_compress.auto.wish import Wish
from hf_compress.ground.errors import RunError
from hf_compress.ground.units import Units
from hf_compress.tasks.base import Metric

ACCURACY = Metric("accuracy", "accuracy", share=True)
ERROR = Metric("abs_rel", "relative error", higher_is_better=False)
FACTS = {"macs": 100.0, "parameters": 50.0, "bytes": 200.0, "peak_memory_bytes": 10.0}


def point(quality, effort=1.0, number=1, kind=REPAIRED, ms=None, **costs):
    found = Point(number, Choice(1 - effort), kind, None, quality, FACTS | {"effort": effort} | costs)
    if ms is not None:
        found.costs["latency_ms"], found.teacher_ms = ms, 6.0
    return found


def decision(metric=ACCURACY, pairs=(), **wish):
    prediction = Prediction()
    for pair in pairs:
        prediction.learn(*pair)
    return Decision(Wish(**wish), metric, point(0.9 if metric is ACCURACY else 0.1, number=0, ms=6.0), prediction)


def test_a_share_of_what_was_lost_stays_lost():
    prediction = Prediction()
    assert isclose(prediction.share, USUAL)
    prediction.learn(0.3, 0.06)
    assert isclose(prediction.share, (0.3 * 0.06 + USUAL * WEIGHT) / (0.3**2 + WEIGHT))
    assert isclose(prediction.errors[0], USUAL * 0.3 - 0.06)
    assert prediction.after_training(-0.01) == -0.01
    assert "rank_correlation" not in prediction.facts()
    prediction.learn(0.1, 0.01)
    prediction.learn(0.2, 0.05)
    assert isclose(prediction.facts()["rank_correlation"], 1.0)


def test_each_winner_is_measured_and_deployed_in_a_place_of_its_own(tmp_path):
    """A search that goes on after an interrupted end may find another one, of the same model."""
    folder = SimpleNamespace(units=Units(tmp_path, 0))
    bench = Bench(SimpleNamespace(recipe=SimpleNamespace(seed=0)), folder, 8)
    points = [point(0.8), point(0.8, kind=TRAINED), point(0.8, number=2)]
    places = {bench.finishing(each).folder for each in points} | {bench.made(points[0].choice, REPAIRED).folder}
    assert len(places) == 4


def test_within_limits_the_best_quality_wins_and_without_the_smallest_that_keeps_it():
    points = [point(0.88, 0.9), point(0.85, 0.5), point(0.60, 0.1)]
    assert decision(macs=100).best(points) is points[0]
    assert decision(macs=100, max_drop=0.05).best(points) is points[0]
    assert decision(max_drop=0.05).best(points) is points[1]
    assert decision(max_drop=0.01).best(points) is points[0]


def test_less_is_better_for_some_metrics():
    points = [point(0.12, 0.9), point(0.30, 0.1)]
    assert decision(ERROR, macs=100).best(points) is points[0]
    assert isclose(decision(ERROR, macs=100).lost(points[1]), 0.2)


def test_what_is_trained_next_follows_what_training_gave_so_far():
    points = [point(0.88, 0.9), point(0.80, 0.5), point(0.60, 0.1)]
    assert decision(max_drop=0.05).in_order(points)[0] is points[1]
    recovers = [(0.3, 0.0)] * 3
    assert decision(max_drop=0.05, pairs=recovers).in_order(points)[0] is points[2]
    assert decision(macs=100, pairs=recovers).in_order(points)[0] is points[0]


def test_of_a_ratio_that_is_sure_less_is_kept_back():
    known = point(0.8, ms=2.9)
    assert not decision(faster=2).fits(known)
    known.sure = 0.97
    assert decision(faster=2).fits(known)
    assert not decision(latency_ms=3.0).fits(known) and decision(latency_ms=3.3).fits(known)


def test_of_time_a_tenth_is_kept_back_and_what_was_not_timed_does_not_count():
    wish = decision(faster=2)
    assert wish.fits(point(0.8, ms=2.7)) and not wish.fits(point(0.8, ms=2.75)) and not wish.fits(point(0.8))
    assert decision(bytes=200).fits(point(0.8)) and not decision(bytes=199).fits(point(0.8))


@pytest.mark.parametrize(("wish", "left"), [({"faster": 2}, 0.45), ({"macs": 30}, 0.3), ({"max_drop": 0.1}, 0.5)])
def test_the_search_begins_where_the_limit_is(wish, left):
    assert isclose(decision(**wish).share_left, left)


def test_what_cannot_be_is_a_sentence_that_names_the_nearest():
    points = [point(0.8, ms=4.0), point(0.5, 0.4, ms=3.0)]
    sentence = decision(faster=10).impossible(points)
    assert sentence.startswith("no candidate is 10 times faster: the nearest is 60% of the MACs pruned by obs")
    assert "2.0x faster" in sentence


def test_a_quality_that_is_missed_is_said_with_what_keeps_it():
    kept, lost = point(0.89, 0.9, ms=5.0), point(0.7, 0.2, ms=2.0)
    wish = decision(faster=2, max_drop=0.02)
    assert wish.missed(kept, [kept, lost]) is None
    sentence = wish.missed(lost, [kept, lost])
    assert "has lost 0.2000 of accuracy" in sentence and "1.20x faster" in sentence


def test_students_are_foretold_by_students():
    pairs = [(0.4, 0.02)] * 3
    known = decision(macs=100, pairs=[(0.3, 0.29)] * 3)
    repaired, student = point(0.7, 0.5), point(0.6, 0.4, kind=BRIEF)
    assert known.in_order([repaired, student])[0] is student  # before any was trained, a usual share is left
    for pair in pairs:
        known.foretold_by(student).learn(*pair)
    assert known.expected(student) < 0.03 < known.expected(repaired)
    assert known.expected(point(0.6, 0.4, kind=TRAINED)) == known.lost(student)
    assert "trained briefly" in str(student)


@pytest.mark.parametrize(("seconds", "turns"), [(0.001, 150), (1.0, 30), (20.0, 10)])
def test_slow_models_are_timed_as_often_as_half_a_minute_allows(seconds, turns, monkeypatch):
    monkeypatch.setattr(judging, "timed_in_turns", lambda calls, repeats: [[seconds]])
    assert judging._turns([print, print], 150) == turns


def test_candidates_of_one_name_that_cannot_be_had_are_told_apart():
    """A number is that of one candidate alone: what is known of it would be said of the next one."""
    asked = []

    def judge(number, choice, *_):
        asked.append((number, choice.macs))
        raise RunError("it cannot be had")

    search = Search(SimpleNamespace(candidates=9), SimpleNamespace(judge=judge), None, lambda line: None)
    search.students, search.teacher = [], point(0.9, number=0)
    search.points.append(search.teacher)
    for macs in (0.302, 0.304, 0.5):
        assert search._is_new(Choice(macs)) and search._judged(Choice(macs)) is None
        assert not search._is_new(Choice(macs))
    assert asked == [(1, 0.302), (2, 0.304), (3, 0.5)] and len(search.failed) == 3


def test_as_many_points_are_timed_as_it_takes_to_choose():
    timed = []
    points = [
        point(quality, 0.5, number, ms=ms) for number, (quality, ms) in enumerate([(0.8, 2), (0.9, 4), (0.85, 2)])
    ]
    bench = SimpleNamespace(time=lambda each: timed.append(each.number))
    search = Search(SimpleNamespace(wish=Wish(faster=2)), bench, None, lambda line: None, points)
    search.decision = decision(faster=2)
    assert search._decided() is points[2]
    assert timed == [1, 2, 2], "the best is too slow, the next is not"
