"""Whole selections on real digits."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageClassification

from hf_compress import Recipe, compress
from hf_compress.data import load_data
from hf_compress.ground.errors import RunError
from hf_compress.ground.units import Units
from hf_compress.measure.cost import cost
from hf_compress.measure.latency import measure_latency
from hf_compress.run.selection.candidates import Blueprint, Candidate
from hf_compress.run.selection.probe import Probe, few_images
from hf_compress.run.selection.select import pixels, select_student
from hf_compress.sections.models import ProbeSection

LIMITS = {"parameters": 710_000, "macs": 3e6, "bytes": 3e6, "latency_ms": 10_000}
TRAINING = {"epochs": 1, "learning_rate": 3e-3}
PROBE = {"candidates": 3, "images": 100, "epochs": 1}
pytestmark = pytest.mark.usefixtures("costs_counted_once")


def recipe(**sections):
    return Recipe.from_dict(
        {
            "teacher": {"model": "resnet18", "width": 0.5, "image_size": 32, "finetune": TRAINING},
            "student": {"model": "auto", "budget": LIMITS, "probe": PROBE},
            "data": {
                "path": "digits",
                "splits": {"train": "train[:300]", "validation": "train[300:400]", "test": "train[400:500]"},
            },
            "measure": {"batch_size": 2, "repeats": 3},
            "steps": [{"distill": TRAINING}],
        }
        | sections
    )


def alone(**sections):
    """Return a recipe without teacher: probes train on the labels."""
    budget = {key: LIMITS[key] for key in ("parameters", "macs")}
    student = {"model": "auto", "image_size": 32, "budget": budget, "probe": PROBE | {"candidates": 2}}
    return recipe(**{"teacher": None, "student": student, "steps": [{"finetune": TRAINING}]} | sections)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, costs_counted_once):
    lines = []
    return compress(recipe(), tmp_path_factory.mktemp("runs") / "out", log=lines.append), lines


@pytest.fixture(scope="module")
def selection(finished):
    return finished[0].report["selection"]


def test_the_better_half_goes_on(selection):
    probed = [row for row in selection["candidates"] if "probe_accuracies" in row]
    first = sorted(probed, key=lambda row: -row["probe_accuracies"][0])
    assert sorted(len(row["probe_accuracies"]) for row in probed) == [1, 2, 2]
    assert len(first[-1]["probe_accuracies"]) == 1
    best = max(first[:2], key=lambda row: row["probe_accuracies"][1])["probe_accuracies"][1]
    (winner,) = (row for row in probed if {key: row[key] for key in ("model", "width")} == selection["winner"])
    assert winner["probe_accuracies"][1] == best


def test_everything_that_was_tried_is_in_the_report(selection):
    rows = selection["candidates"]
    assert selection["budget"] == LIMITS
    assert selection["probe"] == {"step": "distill", **PROBE}
    for row in rows:
        assert row["fits"] == ("reason" not in row)
        assert row["fits"] == all(row[key] <= limit for key, limit in LIMITS.items() if key in row)
        assert ("latency_ms" in row) == row["fits"]
    assert {row["fits"] for row in rows} == {True, False}


def test_the_student_meets_the_budget_when_measured_afresh(finished, selection):
    model = AutoModelForImageClassification.from_pretrained(finished[0].folder)
    image = torch.zeros(1, 3, 32, 32)
    fresh = cost(model, image)
    (row,) = (row for row in selection["candidates"] if {k: row[k] for k in ("model", "width")} == selection["winner"])
    assert all(fresh[key] == row[key] <= LIMITS[key] for key in ("parameters", "macs"))
    assert fresh["bytes"] == pytest.approx(row["bytes"], rel=2e-3)
    assert fresh["bytes"] <= LIMITS["bytes"]
    assert measure_latency([model], [image], [1], 3)[0]["batch_1"]["p50_ms"] <= LIMITS["latency_ms"]


def test_log_and_report_hint_at_a_small_student(finished, selection):
    share = finished[0].report["rows"][-1]["cost"]["parameters"] / finished[0].report["rows"][0]["cost"]["parameters"]
    assert share < 0.5
    assert f"{share:.1%} of the teacher's parameters" in selection["hint"]
    assert f"hint: {selection['hint']}" in finished[1]


def test_the_card_shows_the_figure(finished):
    folder = finished[0].folder
    assert (folder / "figures" / "selection.png").is_file()
    assert "(figures/selection.png)" in (folder / "README.md").read_text()


@pytest.mark.long
def test_the_resolved_recipe_names_the_student_and_repeats_it_without_a_search(finished, selection, tmp_path):
    first = finished[0].folder
    resolved = Recipe.load(first / "recipe.yaml")
    assert resolved.student.model_dump(exclude_none=True) == {
        **selection["winner"],
        "image_size": 32,
        "trust_remote_code": False,
        "depth": 1.0,
        "pretrained": True,
    }
    second = compress(resolved, tmp_path / "again", log=lambda line: None)
    assert "selection" not in second.report
    assert (first / "model.safetensors").read_bytes() == (second.folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def searched(tmp_path_factory, costs_counted_once):
    """What a search without teacher found, and where it is kept."""
    units = Units(tmp_path_factory.mktemp("searched"), seed=0)
    return select_student(alone(), load_data(alone().data, seed=0), None, units, lambda line: None), units


def test_without_teacher_the_same_seed_gives_the_same_selection(searched, tmp_path):
    first, _ = searched
    second = select_student(alone(), load_data(alone().data, seed=0), None, Units(tmp_path, seed=0), lambda line: None)
    assert first == second
    assert first[1]["selection"]["hint"] is None
    assert all("latency_ms" not in row for row in first[1]["selection"]["candidates"])


def test_a_named_student_is_left_alone():
    named = recipe(student="resnet18")
    assert select_student(named, None, None, Units(Path("unused"), seed=0), print) == (named, {})


def test_a_search_that_is_done_is_not_repeated(searched):
    found, units = searched
    lines = []
    assert select_student(alone(), load_data(alone().data, seed=0), None, units, lines.append) == found
    assert lines == []


def test_nothing_fits(tmp_path):
    tiny = alone(student={"model": "auto", "image_size": 32, "budget": {"parameters": 1000}})
    with pytest.raises(
        RunError, match=r"budget of 1\.00 k parameters: the nearest is mobilenet_v1 x0\.25 with 215\.64 k"
    ):
        select_student(tiny, load_data(tiny.data, seed=0), None, Units(tmp_path, seed=0), print)


def test_a_probe_has_epochs_and_no_minutes(tmp_path):
    brief = alone(steps=[{"finetune": {"minutes": 1e-6, "batch_size": 16}}])
    few = few_images(load_data(brief.data, seed=0), ProbeSection(images=50), seed=0)
    lines = []
    Probe(brief, Blueprint(few.label_names, 32), few, None, 1, tmp_path, lines.append)(
        Candidate("resnet18", 0.25, {}), rung=1
    )
    assert lines[0].startswith("  rung 2, 2 epochs:")


def test_a_training_that_diverges_loses(tmp_path):
    diverging = alone(steps=[{"finetune": {"optimizer": "sgd", "learning_rate": 1e30, "batch_size": 16}}])
    few = few_images(load_data(diverging.data, seed=0), ProbeSection(images=50), seed=0)
    lines = []
    probe = Probe(diverging, Blueprint(few.label_names, 32), few, None, 1, tmp_path, lines.append)
    assert probe(Candidate("resnet18", 0.25, {}), rung=0) == 0
    assert "resnet18 x0.25: the training loss became" in lines[0]


def test_few_images_are_a_random_part_of_the_splits():
    data = load_data(recipe().data, seed=0)
    few = few_images(data, ProbeSection(images=150), seed=0)
    assert [len(few.train), len(few.validation), len(few.test)] == [150, 100, 100]
    assert set(few.train.labels) == set(range(10))
    again, other = (few_images(data, ProbeSection(images=150), seed=seed) for seed in (0, 1))
    assert again.train.labels == few.train.labels != other.train.labels
    whole = [data.train[index] for index in range(len(data.train))]
    for item in (few.train[0], few.train[149]):
        assert any(torch.equal(item["view"], known["view"]) and item["label"] == known["label"] for known in whole)


def test_the_input_size_is_the_users_or_the_teachers():
    teacher = Blueprint(list("ab"), 48).build(Candidate("resnet18", 0.25, {}))
    assert [pixels(64, teacher), pixels(None, teacher), pixels(None, None)] == [64, 48, 224]
