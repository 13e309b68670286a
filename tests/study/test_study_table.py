"""The table of a study, from reports made by hand."""

import csv
import io

import pytest
from reports import report as run_report
from reports import with_control

from hf_compress.study.config import Study
from hf_compress.study.page import quality_figure, write_results
from hf_compress.study.table import cells, csv_table, run_rows, study_report

TINY = {"model": "resnet18", "width": 0.125, "image_size": 16}


def test_the_deviation_is_that_of_a_sample(tmp_path):
    """Of 0.5, 0.6 and 0.9 the mean is 2/3, and the squared distances from it sum to 0.26/3, two degrees of freedom."""
    seeds = [0, 1, 2]
    study = Study.from_dict(
        {"data": "digits", "seeds": seeds, "runs": {"one": {"student": TINY, "steps": ["finetune"]}}}
    )
    finished = {
        ("one", seed): {
            "rows": [{"quality": {"accuracy": accuracy}, "cost": {"parameters": 8, "macs": 9}}],
            **{"seconds": 1.0, "data": {}, "measure": {}},
        }
        for seed, accuracy in zip(seeds, (0.5, 0.6, 0.9), strict=True)
    }
    (row,) = study_report(study, finished, tmp_path, None)["rows"]
    assert row["quality"]["accuracy"]["mean"] == pytest.approx(2 / 3)
    assert row["quality"]["accuracy"]["std"] == pytest.approx((0.26 / 3 / 2) ** 0.5)


def controlled():
    """A run with three seeds, of which the second has no control, and one without any; accuracies by hand."""
    sections = {"student": TINY, "steps": ["finetune"]}
    runs = {"taught": {"student": TINY, "teacher": TINY, "steps": ["distill"], "control": True}, "alone": sections}
    study = Study.from_dict({"data": "digits", "seeds": [0, 1, 2], "runs": runs})
    finished = {}
    for seed, accuracy, control in ((0, 0.9, 0.8), (1, 0.7, None), (2, 0.8, 0.6)):
        finished["alone", seed] = run_report()
        content = finished["taught", seed] = run_report() if control is None else with_control(run_report())
        content["rows"][-1]["quality"] = {"accuracy": accuracy}
        if control is not None:
            content["control"]["quality"] = {"accuracy": control}
    return study, finished


def test_a_control_stands_below_its_run_and_is_compared_seed_by_seed(tmp_path):
    """Of the differences 0.1 and 0.2 the mean is 0.15, the deviation the root of 0.005."""
    report = study_report(*controlled(), tmp_path, None)
    taught, alone = report["rows"]
    assert taught["control"]["accuracy"]["values"] == [0.8, 0.6]
    assert taught["against_control"]["accuracy"]["mean"] == pytest.approx(0.15)
    assert taught["against_control"]["accuracy"]["std"] == pytest.approx(0.005**0.5)
    assert not {"control", "against_control"} & alone.keys()
    assert [[row[0], row[1], row[-1]] for row in cells(report)[1][:3]] == [
        ["taught", "0.8000 ± 0.1000", "3"],
        ["taught, control", "0.7000 ± 0.1414", "2"],
        ["taught, against control", "+0.1500 ± 0.0707", "2"],
    ]
    assert [row[0] for row in cells(report)[1][3:]] == ["alone"]
    lines = [cells[:3] for _, cells in run_rows(report)[1]]
    assert lines[:3] == [["taught", "0", "0.9000"], ["taught, control", "0", "0.8000"], ["taught", "1", "0.7000"]]
    first, second = csv.DictReader(io.StringIO(csv_table(report)))
    assert float(first["control_accuracy_mean"]) == pytest.approx(0.7)
    assert float(first["against_control_accuracy_std"]) == pytest.approx(0.005**0.5)
    assert second["control_accuracy_mean"] == ""


def test_page_and_figure_show_the_control(tmp_path):
    study, finished = controlled()
    report = write_results(study, finished, tmp_path)
    page = (tmp_path / "README.md").read_text()
    assert "| taught, against control | +0.1500 ± 0.0707 |" in page
    assert "Against it stands the run minus its control" in page
    accuracy = quality_figure(report).axes[0]
    hollow = [line for line in accuracy.lines if line.get_markerfacecolor() == "white"]
    assert [list(line.get_xdata()) for line in hollow if len(line.get_xdata())][:2] == [[0.8, 0.6], [0.7]]
    for content in finished.values():
        content.pop("control", None)
    write_results(study, finished, tmp_path)
    assert "control" not in (tmp_path / "README.md").read_text().partition("## Study")[0]
