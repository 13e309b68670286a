"""Whole runs on real digits: what a user gets, and what it says when something is wrong."""

import json
import logging
import math
import subprocess
import sys

import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from hf_compress import Recipe, compress, save
from hf_compress.data import load_data
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.manifest import record
from hf_compress.report.run import Run
from hf_compress.sections.data import DataSection
from hf_compress.tools.evaluation import evaluate_folder

SMALL = {"model": "resnet18", "width": 0.125, "image_size": 32}
SPLITS = {"train": "train[:300]", "validation": "train[300:400]", "test": "train[400:600]"}
DIGITS = {"path": "digits", "splits": SPLITS}
TRAINING = {"epochs": 1, "learning_rate": 3e-3}
MEASURE = {"batch_size": 4, "repeats": 3}


def recipe(**sections):
    return Recipe.from_dict(
        {
            "teacher": {**SMALL, "finetune": {**TRAINING, "epochs": 3}},
            "student": SMALL,
            "data": DIGITS,
            "measure": MEASURE,
            "steps": [{"distill": TRAINING}],
        }
        | sections
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A teacher, distilled, then pruned in rounds."""
    steps = [
        {"distill": {**TRAINING, "epochs": 2}},
        {
            "prune": {
                "amount": 0.25,
                "max_drop": 1.0,
                "target": {"macs": 0.4},
                "recovery": {**TRAINING, "loss": "mse_ce"},
            }
        },
    ]
    lines = []
    run = compress(recipe(steps=steps), tmp_path_factory.mktemp("runs") / "out", log=lines.append)
    return run, lines


def test_the_run_folder_is_a_hub_repository(finished):
    run, _ = finished
    names = {file.relative_to(run.folder).as_posix() for file in run.folder.rglob("*") if file.is_file()}
    figures = {
        f"figures/{name}.png"
        for name in ("training", "rounds", "layers", "latency", "confusion", "reliability", "examples")
    }
    model = {"config.json", "model.safetensors", "modeling_hf_compress.py", "preprocessor_config.json"}
    assert names == model | figures | {"README.md", "recipe.yaml", "report.json", "hf_compress_manifest.json"}
    assert [path.name for path in run.folder.parent.iterdir()] == ["out"]
    assert Run.open(run.folder).report == run.report


def test_the_report_has_a_row_a_stage_with_quality_cost_and_latency(finished):
    rows = finished[0].report["rows"]
    assert [row["stage"] for row in rows] == ["teacher", "student", "1 distill", "2 prune"]
    for row in rows:
        assert 0 <= row["quality"]["accuracy"] <= 1
        assert set(row["cost"]) == {"parameters", "nonzero_parameters", "macs", "bytes", "peak_memory_bytes"}
        assert set(row["latency"]) == {"batch_1", "batch_4"}
        assert sum(row["classes"]["images"]) == 200
        assert sum(row["classes"]["correct"]) == round(200 * row["quality"]["accuracy"])
        assert sum(images for *_, images in row["reliability"]["bins"]) == 200
    assert rows[2]["quality"]["accuracy"] > rows[1]["quality"]["accuracy"]


def test_every_row_is_compared_with_the_first_and_every_step_with_the_row_before(finished):
    rows = finished[0].report["rows"]
    assert "differences" not in rows[0] and not any("by_image" in row for row in rows)
    quality = {row["stage"]: row["quality"] for row in rows}
    compared = {
        row["stage"]: [(entry["metric"], entry["against"]) for entry in row["differences"]] for row in rows[1:]
    }
    assert compared == {
        stage: [(metric, other) for other in others for metric in ("accuracy", "roc_auc")]
        for stage, others in {
            "student": ["teacher"],
            "1 distill": ["teacher", "student"],
            "2 prune": ["teacher", "1 distill"],
        }.items()
    }
    for row in rows[1:]:
        for entry in row["differences"]:
            change = row["quality"][entry["metric"]] - quality[entry["against"]][entry["metric"]]
            assert entry["difference"] == pytest.approx(change)
            assert entry["low"] <= entry["difference"] <= entry["high"]
    assert all(entry["low"] > 0 for entry in rows[2]["differences"][2:])  # an untrained student
    card = (finished[0].folder / "README.md").read_text()
    assert "accuracy against the stage before" in card and "paired bootstrap" in card


def test_the_report_compares_the_layers_of_the_student_before_and_after(finished):
    run, _ = finished
    layers = run.report["layers"]
    model = AutoModelForImageClassification.from_pretrained(run.folder)
    before, after = layers["resnet.encoder.stages.3.layers.1.layer.0.convolution"]["width"]
    assert before == 64
    assert after == model.resnet.encoder.stages[3].layers[1].layer[0].convolution.out_channels < 64
    assert layers["classifier.1"]["width"] == [10, 10]
    assert run.report["loads_with"] == "generated_code"


def test_the_report_is_what_the_run_says(finished):
    run, _ = finished
    assert json.loads((run.folder / "report.json").read_text()) == run.report


def test_pruning_rounds_reach_the_target_and_are_reported(finished):
    details = finished[0].report["rows"][-1]["details"]
    rows = finished[0].report["rows"]
    assert details["target_reached"]
    assert len(details["rounds"]) > 1
    for entry in details["rounds"]:  # each trained one epoch
        (epoch,) = entry["epochs"]
        came_to = max(epoch["validation_accuracy"], entry["began"]["validation_accuracy"])
        assert came_to == entry["validation_accuracy"] and epoch["training_loss"] > 0
    gone = [entry["macs"] for entry in details["rounds"]]
    assert gone == sorted(gone)
    assert gone[-1] >= 0.399
    assert rows[-1]["cost"]["macs"] == pytest.approx((1 - gone[-1]) * rows[-2]["cost"]["macs"], rel=1e-3)


def test_the_folder_reloads_with_from_pretrained_and_the_reported_accuracy(finished):

    run, _ = finished
    model = AutoModelForImageClassification.from_pretrained(run.folder)
    assert sum(p.numel() for p in model.parameters()) == run.report["rows"][-1]["cost"]["parameters"]
    again = evaluate_folder(str(run.folder), None, "test")
    assert again["split"]["images"] == 200
    assert again["quality"]["accuracy"] == pytest.approx(run.report["rows"][-1]["quality"]["accuracy"])
    assert again["cost"]["macs"] == run.report["rows"][-1]["cost"]["macs"]


def test_the_folder_works_in_a_pipeline(finished):
    classify = pipeline("image-classification", model=str(finished[0].folder))
    assert len(classify(Image.new("L", (8, 8)).convert("RGB"), top_k=10)) == 10
    assert AutoImageProcessor.from_pretrained(finished[0].folder).size == {"height": 32, "width": 32}


def test_the_resolved_recipe_can_be_run_again(finished):
    run, _ = finished
    again = Recipe.load(run.folder / "recipe.yaml")
    assert yaml.safe_load(again.to_yaml()) == yaml.safe_load((run.folder / "recipe.yaml").read_text())


def test_the_same_seed_gives_the_same_weights(tmp_path):
    first, second = (
        compress(recipe(student="teacher", steps=[{"finetune": TRAINING}]), tmp_path / name, log=lambda line: None)
        for name in ("a", "b")
    )
    states = [AutoModelForImageClassification.from_pretrained(run.folder).state_dict() for run in (first, second)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.long
def test_weight_pruning_keeps_its_zeros_through_a_later_step(tmp_path):
    blind = {"iterative": False, "repair": "none", "recovery": {"epochs": 0}}
    steps = [
        {"prune": {"granularity": "weight", "amount": 0.8, **blind}},
        {"distill": {"epochs": 3, "learning_rate": 0.01}},
    ]
    run = compress(recipe(student="teacher", steps=steps), tmp_path / "out", log=lambda line: None)
    teacher, pruned, distilled = (row["cost"]["nonzero_parameters"] for row in run.report["rows"])
    assert run.report["rows"][-1]["details"]["best_epoch"] > 0
    assert pruned < 0.25 * teacher
    assert distilled <= pruned


def test_a_round_that_falls_too_far_is_halved_then_rolled_back(tmp_path):
    prune = {"prune": {"amount": 0.8, "max_drop": 0.0, "round_to": 1, "recovery": {"epochs": 0}}}
    run = compress(recipe(student="teacher", steps=[prune]), tmp_path / "out", log=lambda line: None)
    rounds = run.report["rows"][-1]["details"]["rounds"]
    assert [entry["amount"] for entry in rounds[:2]] == [0.8, 0.4]
    assert not rounds[0]["kept"]
    kept = [entry for entry in rounds if entry["kept"]]
    teacher, final = run.report["rows"]
    if not kept:
        assert final["cost"]["parameters"] == teacher["cost"]["parameters"]
    else:
        assert final["cost"]["parameters"] < teacher["cost"]["parameters"]


def test_unlabelled_images_distil_with_mse(tmp_path, unlabelled_photos, finished):
    sections = {
        "teacher": str(finished[0].folder),
        "data": unlabelled_photos,
        "student": {"model": "resnet18", "width": 0.125},
    }
    run = compress(recipe(**sections), tmp_path / "out", log=lambda line: None)
    assert set(run.report["rows"][-1]["quality"]) == {"teacher_agreement"}
    found = [(entry["metric"], entry["against"]) for entry in run.report["rows"][-1]["differences"]]
    assert found == [("teacher_agreement", "teacher"), ("teacher_agreement", "student")]
    assert run.report["data"]["splits"]["train"]["unlabelled_images"] == 48
    with pytest.raises(RunError, match=r"mse_ce.*label"):
        compress(recipe(**sections, steps=[{"distill": {"loss": "mse_ce"}}]), tmp_path / "b", log=lambda line: None)


def test_labels_in_another_order_are_aligned_by_name(tmp_path, finished):
    """The same digits in folders whose alphabetical order is another one: the accuracy must not change."""
    run, _ = finished
    names = [
        f"digit {word}" for word in ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    ]
    model = AutoModelForImageClassification.from_pretrained(run.folder)
    model.config.id2label = dict(enumerate(names))
    save(model, tmp_path / "teacher", AutoImageProcessor.from_pretrained(run.folder))
    digits = load_digits()
    for number in range(300, 600):
        split = "test" if number >= 400 else "train"
        folder = tmp_path / "photos" / split / names[digits.target[number]].upper().replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 255 / 16).astype("uint8")).save(folder / f"{number}.png")
    result = evaluate_folder(str(tmp_path / "teacher"), str(tmp_path / "photos"), "test")
    with pytest.raises(UsageError, match="pass --data"):
        evaluate_folder(str(tmp_path / "teacher"), None, "test")
    assert result["quality"]["accuracy"] == pytest.approx(run.report["rows"][-1]["quality"]["accuracy"])


def test_other_labels_need_finetune_and_the_error_says_so(tmp_path, finished):
    for blue, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            Image.new("RGB", (16, 16), (number, 0, blue)).save(tmp_path / "photos" / name / f"{number}.png")
    sections = {"teacher": str(finished[0].folder), "data": str(tmp_path / "photos"), "student": "teacher"}
    with pytest.raises(RunError, match=r"labels .*teacher\.finetune"):
        compress(recipe(**sections), tmp_path / "out")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    training = {"epochs": 1, "learning_rate": 1e30, "optimizer": "sgd"}
    with pytest.raises(RunError, match=r"training loss became .*learning_rate"):
        compress(recipe(teacher=None, steps=[{"finetune": training}]), tmp_path / "out", log=lambda line: None)
    assert not (tmp_path / "out").exists()


def test_an_earlier_run_is_only_replaced_on_request(tmp_path):
    (tmp_path / "report.json").write_text("{}")
    record(tmp_path)
    with pytest.raises(UsageError, match="--overwrite"):
        compress(recipe(), tmp_path)
    (tmp_path / "report.json").rename(tmp_path / "thesis.tex")
    (tmp_path / "hf_compress_manifest.json").unlink()
    with pytest.raises(UsageError, match="not a run folder"):
        compress(recipe(), tmp_path, overwrite=True)


def test_corrupt_images_are_counted_with_a_warning(tmp_path, caplog):
    for blue, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for number in range(20):
            Image.new("RGB", (16, 16), (number, 0, blue)).save(tmp_path / name / f"{number}.png")
    whole = (tmp_path / "cat" / "0.png").read_bytes()
    (tmp_path / "cat" / "0.png").write_bytes(whole[: len(whole) // 2])

    with caplog.at_level(logging.WARNING):
        data = load_data(DataSection(path=str(tmp_path)), 0)
    assert sum(part["corrupt_images_skipped"] for part in data.facts["splits"].values()) == 1
    assert "skipped 1 corrupt" in caplog.text


def cli(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "hf_compress", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_help_does_not_import_torch_and_schema_is_json():
    code = """
import sys
import hf_compress.cli
try:
    hf_compress.cli.app(["--help"])
except SystemExit:
    print("torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("False")
    assert json.loads(cli("schema").stdout)["properties"]["steps"]


def test_the_report_holds_no_nan(finished):
    def numbers(node):
        if isinstance(node, dict):
            node = list(node.values())
        return [x for item in node for x in numbers(item)] if isinstance(node, list) else [node]

    assert all(math.isfinite(x) for x in numbers(finished[0].report) if isinstance(x, float))
