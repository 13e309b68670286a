"""Paired intervals: against scipy's bootstrap and numbers by hand, how often they hold the truth, and their words."""

import numpy as np
import pytest
import torch
from rich.console import Console
from scipy.stats import bootstrap
from sklearn.metrics import roc_auc_score

from hf_compress.measure.intervals import RESAMPLES, TAILS, differences, in_words, interval, speedup, with_range
from hf_compress.measure.quality import quality, quality_by_image
from hf_compress.report.card_facts import comparison, steps_table, summary
from hf_compress.report.headline import headline
from hf_compress.report.limits import limits
from hf_compress.report.measures import measures
from hf_compress.report.run import Run, write_report
from hf_compress.report.table import deployed_table, report_table
from tests.reports import report


def answers(both, first, second, neither):
    """Return what two models got right: so many images both, only the first, only the second, neither."""
    before = [1] * both + [1] * first + [0] * second + [0] * neither
    after = [1] * both + [0] * first + [1] * second + [0] * neither
    return before, after


def test_the_difference_is_that_of_the_two_accuracies():
    before, after = answers(4400, 70, 32, 498)
    found = interval(before, after)
    assert found["difference"] == pytest.approx(np.mean(after) - np.mean(before)) == pytest.approx(-0.0076)
    assert found == interval(before, after)  # no random state from outside


@pytest.mark.parametrize("counts", [(150, 12, 5, 13), (60, 3, 9, 8), (4400, 70, 32, 498), (0, 25, 25, 0)])
def test_the_interval_is_that_of_a_paired_bootstrap(counts):
    """A standard error of the interval's ends over seeds is allowed."""
    before, after = (np.array(part) for part in answers(*counts))
    reference = bootstrap(
        (before, after),
        lambda x, y, axis: y.mean(axis=axis) - x.mean(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4 * RESAMPLES,
        batch=500,
        rng=np.random.default_rng(1),
    )
    found, tolerance = interval(before, after), 0.15 * reference.standard_error + 1 / len(before)
    assert found["low"] == pytest.approx(reference.confidence_interval.low, abs=tolerance)
    assert found["high"] == pytest.approx(reference.confidence_interval.high, abs=tolerance)


def test_the_interval_is_paired():
    """Two models that differ in few answers: unpaired, the interval would be as wide as that of each accuracy."""
    before, after = answers(900, 20, 6, 74)
    found = interval(before, after)
    by_hand = 1.96 * np.sqrt((0.026 - 0.014**2) / 1000)
    assert (found["high"] - found["low"]) / 2 == pytest.approx(by_hand, rel=0.1)
    assert found["high"] < 0


def test_the_interval_holds_the_truth_in_about_95_of_100_cases():
    generator, truth, images = np.random.default_rng(0), [0.8, 0.07, 0.03, 0.1], 400
    held = 0
    for counts in generator.multinomial(images, truth, 200):
        found = interval(*answers(*counts))
        held += found["low"] <= truth[2] - truth[1] <= found["high"]
    assert 0.90 <= held / 200 <= 0.99


@pytest.mark.parametrize(
    "counts, words",
    [
        ((150, 5, 4, 21), "no difference that 180 test images can show (-3.89 to +2.78 points)"),
        ((170, 0, 0, 10), "no difference that 180 test images can show (+0.00 to +0.00 points)"),
        ((4400, 70, 32, 498), "0.76 points lower (-1.16 to -0.36 points)"),
        ((100, 2, 40, 58), "19.00 points higher (+13.00 to +25.00 points)"),
    ],
)
def test_words_say_no_more_than_the_interval_allows(counts, words):
    found = in_words({"metric": "accuracy"} | interval(*answers(*counts)), sum(counts))
    number = "".join(c if not c.isdigit() else "#" for c in found)
    assert number == "".join(c if not c.isdigit() else "#" for c in words)
    assert found.partition(" (")[0] == words.partition(" (")[0]


def logits_of_two_models(images, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (images,), generator=generator)
    shared = torch.randn(images, classes, generator=generator) + 2 * torch.eye(classes)[labels]
    return labels, *(shared + scale * torch.randn(images, classes, generator=generator) for scale in (0.3, 1.0))


LONG = [pytest.param(*sizes, marks=pytest.mark.long) for sizes in ((200, 4), (400, 3))]


@pytest.mark.parametrize("images, classes", [(60, 3), *LONG])
def test_the_interval_of_a_roc_auc_is_that_of_a_bootstrap_which_computes_it_anew(images, classes):
    labels, *logits = logits_of_two_models(images, classes, seed=images)
    contributions = [quality_by_image(each, labels)["roc_auc"] for each in logits]
    found = interval(*contributions)
    areas = [quality(each, labels)["roc_auc"] for each in logits]
    assert found["difference"] == pytest.approx(areas[1] - areas[0])
    probabilities, truth = [each.double().softmax(1).numpy() for each in logits], labels.numpy()

    def area(scores, drawn):
        return np.mean([roc_auc_score(truth[drawn] == c, scores[drawn, c]) for c in range(classes)])

    generator = np.random.default_rng(0)
    draws = [generator.integers(images, size=images) for _ in range(400)]
    changes = [area(probabilities[1], drawn) - area(probabilities[0], drawn) for drawn in draws]
    low, high = np.quantile(changes, [0.025, 0.975])
    assert found["low"] == pytest.approx(low, abs=0.2 * (high - low))
    assert found["high"] == pytest.approx(high, abs=0.2 * (high - low))
    assert found["high"] - found["low"] == pytest.approx(high - low, rel=0.15)


def test_the_variance_of_a_roc_auc_is_delongs_by_hand():
    """Own images score 0.9, 0.6, 0.6; others 0.7, 0.6, 0.2, 0.1: placements 1, 5/8, 5/8; 1/3, 2/3, 1, 1."""
    scores, labels = torch.tensor([0.9, 0.6, 0.6, 0.7, 0.6, 0.2, 0.1]), torch.tensor([1, 1, 1, 0, 0, 0, 0])
    logits = torch.stack([torch.zeros(7), scores], dim=1)
    contributions = quality_by_image(logits, labels)["roc_auc"]
    area, own, others = 0.75, np.array([1, 5 / 8, 5 / 8]), np.array([1 / 3, 2 / 3, 1, 1])
    assert contributions == pytest.approx([*(area + (own - area) * 7 / 3), *(area + (others - area) * 7 / 4)])
    assert contributions.var() / 7 == pytest.approx(own.var() / 3 + others.var() / 4)


def test_a_roc_auc_is_not_told_in_points():
    entry = {"metric": "roc_auc", "difference": -0.0021, "low": -0.0043, "high": -0.0002}
    assert in_words(entry, 100) == "0.0021 lower (-0.0043 to -0.0002)"
    assert with_range(entry) == "-0.0021 (-0.0043 to -0.0002)"
    assert in_words(entry | {"high": 0.0002}, 100) == (
        "no difference that 100 test images can show (-0.0043 to +0.0002)"
    )


def test_every_metric_and_stage_that_both_have_is_compared():
    right = {"accuracy": [1, 0, 1]}
    found = differences(right, {"teacher": {"accuracy": [1, 1, 1]}, "student": {"accuracy": [0, 0, 0]}, "old": {}})
    assert [(entry["metric"], entry["against"]) for entry in found] == [
        ("accuracy", "teacher"),
        ("accuracy", "student"),
    ]
    assert [entry["difference"] for entry in found] == pytest.approx([-1 / 3, 2 / 3])


def with_differences(low, high):
    made = report()
    first, last = made["rows"]
    step = {**last, "stage": "2 distill"}
    entry = {"metric": "accuracy", "difference": -0.1, "low": low, "high": high}
    last["differences"] = [{**entry, "against": "teacher"}]
    step["differences"] = [{**entry, "against": "teacher"}, {**entry, "against": "1 prune", "difference": 0.0}]
    return made | {"rows": [first, last, step]}


def test_card_and_page_tell_the_interval():
    made = with_differences(-0.2, -0.05)
    assert {heading: change for heading, *_, change in comparison(made)[1]}[
        "accuracy"
    ] == "-10.00 points (-20.00 to -5.00)"
    assert summary(made)[1].endswith("is 0.9000 instead of 1.0000: 10.00 points lower (-20.00 to -5.00 points).")
    unsure = with_differences(-0.2, 0.01)
    assert "no difference that 30 test images can show (-20.00 to +1.00 points)." in summary(unsure)[1]
    headings, rows = steps_table(made)
    assert headings[-1] == "accuracy against the stage before"
    assert [row[-1] for row in rows] == ["", "-10.00 points (-20.00 to -5.00)", "+0.00 points (-20.00 to -5.00)"]
    assert any("paired bootstrap" in sentence for sentence in limits(made))
    on_the_page = next(measure for measure in measures(made) if measure.heading == "accuracy")
    assert on_the_page.change(made["rows"][0], made["rows"][-1]).endswith("(-20.00 to -5.00)")


def test_a_report_without_intervals_is_shown_as_before():
    assert summary(report())[1].endswith("is 0.9000 instead of 1.0000.")
    assert not any("bootstrap" in sentence for sentence in limits(report()))
    assert "against" not in " ".join(steps_table(report())[0])


def test_the_terminal_tells_the_intervals():
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report_table(with_differences(-0.2, 0.01)))
    lines = [line.split("│") for line in console.export_text().splitlines() if "points against" in line]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells == [
        ["points against teacher", "-20.00 to +1.00", "-20.00 to +1.00"],
        ["points against the stage before", "-20.00 to +1.00"],
    ]


def test_a_slow_moment_that_meets_both_leaves_the_ratio_as_it_is():
    before = np.array([4.0] * 13 + [40.0] * 10 + [4.0] * 7)
    found = speedup(before, before / 2)
    assert found == {"ratio": pytest.approx(2), "low": pytest.approx(2), "high": pytest.approx(2)}


def test_the_range_of_a_ratio_is_that_of_blocks_of_turns_drawn_one_by_one():
    generator = np.random.default_rng(3)
    slow = np.repeat(generator.uniform(1, 1.5, 9), 3)
    before, after = 2 * slow * generator.uniform(1, 1.1, 27), slow[::-1] * generator.uniform(1, 1.1, 27)
    ratios, generator = [], np.random.default_rng(1)
    for _ in range(RESAMPLES):
        turns = [(start + step) % 27 for start in generator.integers(27, size=9) for step in range(3)]
        ratios.append(np.median(before[turns]) / np.median(after[turns]))
    found = speedup(before, after)
    assert found["ratio"] == pytest.approx(np.median(before) / np.median(after))
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(ratios, TAILS)), abs=0.02)


def test_a_range_stands_where_the_ratio_stands(tmp_path):
    made = report()
    sure = {"against": "teacher", "ratio": 4.0, "low": 3.84, "high": 4.25}
    made["rows"][-1]["latency"]["batch_1"]["speedup"] = sure
    write_report(tmp_path / "report.json", made)
    assert Run.open(tmp_path).report == made
    table = {heading: cells[-1] for heading, *cells in comparison(made)[1]}
    assert table["latency, one image, p50"] == "4.0x faster (3.8 to 4.2)"
    assert table["latency, one image, p95"] == "4.0x faster"
    assert "4.0x faster (3.8 to 4.2) with one image" in headline(made)
    assert "The range behind a ratio of latency is its 95 % interval" in " ".join(limits(made))
    lines = shown_in_terminal(report_table(made))
    assert lines["times as fast as teacher"][-1] == "3.84 to 4.25"
    assert lines["latency, one image, p50"][-1] == "2.00 ms (4.0x faster)"
    sure |= {"against": "PyTorch"}
    file = {"stage": "onnx", "file": "a.onnx", "cost": {"bytes": 1}, "max_difference": {}, "quality": {}}
    times = {"latency": made["rows"][-1]["latency"], "eager_latency": made["rows"][0]["latency"]}
    assert shown_in_terminal(deployed_table([file | times]))["times as fast as PyTorch"] == ["3.84 to 4.25"]
    assert "3.8" not in str(comparison(made)), "a file's ratio is another one than that of the stages"


def test_a_slower_model_has_its_range_the_other_way_round():
    made = report()
    slower = {"p50_ms": 10.0, "p95_ms": 11.0}
    for low, high, words in ((0.64, 0.9, "1.25x slower (1.11 to 1.56)"), (0.4, 1.6, "1.25x slower (0.62 to 2.50)")):
        speedup = {"against": "teacher", "ratio": 0.8, "low": low, "high": high}
        made["rows"][-1]["latency"]["batch_1"] = slower | {"speedup": speedup}
        assert dict((row[0], row[-1]) for row in comparison(made)[1])["latency, one image, p50"] == words


def shown_in_terminal(table):
    console = Console(width=200)
    with console.capture() as shown:
        console.print(table)
    rows = (line.split("│") for line in shown.get().splitlines() if line.count("│") > 2)
    return {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}
