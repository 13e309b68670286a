"""Figures are drawn from what a report holds, the same each time, whatever the names."""

import warnings

import pytest
from PIL import Image
from reports import SELECTION, deployed, report, with_control

from hf_compress.report import figures


def drawn(content, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [path.stem for path in figures.draw_figures(content, folder)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    names = ["\U0001f9a5 $\\frac{a}$ <b>", "\u202eright to left", "a very long name of a class " * 5]
    content = report(labels=names, selection=SELECTION, deployed=[deployed()])
    others = [name for name in figures.FIGURES if name != "front"]  # of a search, which this is not
    assert drawn(with_control(content), folder) == others
    return folder


def test_figures_fit_the_card_and_are_light(folder):
    for path in folder.iterdir():
        with Image.open(path) as picture:
            assert 300 < picture.width < 1000
            assert 150 < picture.height < 1000
        assert path.stat().st_size < 40_000


def test_the_same_report_gives_the_same_bytes(folder, tmp_path):
    names = ["training", "rounds", "latency"]
    content = report()
    content = {**content, "layers": {}}
    for row in content["rows"]:
        row.pop("classes"), row.pop("reliability")
    first, second = tmp_path / "a", tmp_path / "b"
    assert drawn(content, first) == drawn(content, second) == names
    assert all((first / f"{n}.png").read_bytes() == (second / f"{n}.png").read_bytes() for n in names)


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.findobj(lambda item: hasattr(item, "get_text"))]


def test_the_chosen_round_is_the_last_one_kept():
    axes = figures.rounds(report()).axes[0]
    (chosen,) = [text for text in axes.texts if text.get_text() == "chosen"]
    assert chosen.xy == (50.0, 0.9)
    (rolled_back,) = [line for line in axes.lines if "rolled back" in line.get_label()]
    assert (rolled_back.get_xdata()[0], rolled_back.get_ydata()[0]) == (pytest.approx(20), 0.4)


def drawn_lines(axes):
    return [(line.get_label(), line.get_xydata().tolist()) for line in axes.lines]


def test_curves_of_rounds_follow_each_other_and_the_best_epochs_are_marked():
    loss, quality = figures.training(report()).axes
    assert loss.get_title() == "1 prune" and quality.get_ylabel() == "validation accuracy"
    halves = [[[1, 0.5], [2, 0.25]], [[3, 0.5], [4, 0.25]]]
    assert drawn_lines(loss) == [("training", values) for values in halves]
    first, best, second, best_again = drawn_lines(quality)
    assert first == ("training", [[1, 0.9], [2, pytest.approx(0.8)]])
    assert second == ("training", [[3, 0.4], [4, pytest.approx(0.3)]])
    assert [best, best_again] == [("best epoch", [[1, 0.9]]), ("best epoch", [[3, 0.4]])]


def test_curves_show_the_control_dashed_and_hollow_without_its_best_epoch():
    content = with_control(report())
    for entry in content["control"]["details"]["steps"]["1 prune"]["rounds"]:
        entry["epochs"] = [epoch | {"validation_accuracy": 0.2} for epoch in entry["epochs"]]
    _, quality = figures.training(content).axes
    lines = [line for line in quality.lines if line.get_label() == "control"]
    assert [line.get_ydata().tolist() for line in lines] == [[0.2, 0.2]] * 2
    assert {(line.get_linestyle(), line.get_fillstyle()) for line in lines} == {("--", "none")}
    assert sum(line.get_label() == "best epoch" for line in quality.lines) == 2


def test_curves_are_of_all_stages_that_trained_the_last_eight_at_most():
    content = report()
    (row,) = content["rows"][1:]
    content["rows"] += [row | {"stage": f"{number} prune"} for number in range(2, 11)]
    titles = [axes.get_title() for axes in figures.training(content).axes if axes.get_title()]
    assert titles == [f"{number} prune" for number in range(3, 11)]
    for each in content["rows"]:
        each["details"] = {"epochs": [{}, {}]}  # as a Trainer's card has it
    assert figures.training(content) is None


def test_layers_show_widths_or_else_zeros():
    content = report()
    assert {"32 of 64", "64 of 64"} <= set(texts(figures.layers(content)))
    content["layers"]["net.conv1"]["width"] = [64, 64]
    assert {"0% zeros", "25% zeros"} <= set(texts(figures.layers(content)))
    content["layers"]["net.conv2"]["sparsity"] = [0.0, 0.0]
    assert figures.layers(content) is None


def test_only_the_most_pruned_of_many_layers_are_shown():
    layers = {f"net.{n}": {"width": [100, 100 - n], "sparsity": [0, 0]} for n in range(60)}
    shown = texts(figures.layers(report(layers=layers)))
    assert "The 40 most pruned of 60 layers" in shown
    assert {"59", "20"} <= set(shown)
    assert "19" not in shown
    layers = {f"net.{n}": {"width": [100, 50 if n < 3 else 100], "sparsity": [0, 0]} for n in range(60)}
    assert "The 3 most pruned of 60 layers" in texts(figures.layers(report(layers=layers)))


def test_many_classes_show_the_most_confused_pairs():
    names = [f"class {n}" for n in range(31)]
    shown = texts(figures.confusion(report(labels=names)))
    assert "class 0 → class 1" in shown
    assert figures.confusion(report(labels=names[:30])).axes[0].images, "a matrix"


def test_the_matrix_counts_every_image():
    (image,) = figures.confusion(report()).axes[0].images
    assert image.get_array().tolist() == [[0.9, 0.1, 0], [0, 0.9, 0.1], [0.1, 0, 0.9]]


def test_latency_shows_every_stage_and_batch():
    figure = figures.latency(report())
    assert {"teacher", "1 prune", "one image", "  8.00 (16.00)", "  2.00 (4.00)"} <= set(texts(figure))


@pytest.fixture
def lines():
    axes = figures.selection(report(selection=SELECTION)).axes[0]
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
    axes = figures.selection(report(selection=found)).axes[0]
    assert axes.get_xlabel() == "MACs, M"
    assert {x for line in axes.lines if line.get_label() == "first probe" for x in line.get_xdata()} == {2.5}


def test_nothing_is_drawn_where_nothing_was_probed():
    unprobed = [{k: v for k, v in row.items() if k != "probe_accuracies"} for row in SELECTION["candidates"]]
    assert figures.selection(report()) is None
    assert figures.selection(report(selection=SELECTION | {"candidates": unprobed})) is None


def test_the_control_is_drawn_with_the_interval_of_the_gain():
    axes = figures.against_control(with_control(report())).axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([1.0, 0.78, 0.9])
    assert list(axes.lines[0].get_xdata()) == pytest.approx([0.81, 0.99])
    assert {"teacher", "control", "1 prune", "Final model against control: +12.00 points (+3.00 to +21.00)"} <= set(
        texts(axes.figure)
    )
    assert figures.against_control(report()) is None
