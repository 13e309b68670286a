"""Depth: a student learns a teacher's depths of pictures without labels."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor
from typer.testing import CliRunner

from hf_compress import Recipe, compress
from hf_compress.auto import running
from hf_compress.auto.request import Request
from hf_compress.auto.running import find_best
from hf_compress.checkpoint import save
from hf_compress.cli import app
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.students import build_registered, build_student
from hf_compress.sections.data import DataSection
from hf_compress.sections.models import StudentSection
from hf_compress.tasks.depth import DEPTH
from hf_compress.tools.evaluation import evaluate_folder
from tests.without_torch import said_alone

FAST = {"epochs": 3, "batch_size": 8, "learning_rate": 0.002, "loss": "mse"}
CHILD = """
import sys
import hf_compress
from transformers import pipeline
print(list(pipeline("depth-estimation", model=sys.argv[1], device="cpu")(sys.argv[2])["predicted_depth"].shape))
"""


def saved(folder, seed, hidden):
    torch.manual_seed(seed)
    body = Dinov2Config(
        image_size=56,
        hidden_size=hidden,
        num_hidden_layers=4,
        num_attention_heads=2,
        out_indices=[1, 2, 3, 4],
        reshape_hidden_states=False,
    )
    config = DepthAnythingConfig(
        backbone_config=body,
        reassemble_hidden_size=hidden,
        neck_hidden_sizes=[8, 8, 16, 16],
        fusion_hidden_size=16,
        head_hidden_size=8,
    )
    model = DepthAnythingForDepthEstimation(config).eval()
    for parameter in model.parameters():  # random weights give depths that are all alike
        parameter.data *= 1.5 if parameter.dim() > 1 else 1
    model.head.conv3.bias.data += 1
    processor = DPTImageProcessor(size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14)
    save(model, folder, processor)
    return str(folder)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    work = tmp_path_factory.mktemp("depth")
    recipe = {
        "task": "depth",
        "teacher": saved(work / "teacher", 0, 16),
        "student": saved(work / "student", 1, 16),
        "data": {
            "path": "digits",
            "splits": {"train": "train[:48]", "validation": "train[48:60]", "test": "train[60:72]"},
        },
        "steps": [
            {"distill": FAST},
            {
                "prune": {
                    "amount": 0.3,
                    "iterative": False,
                    "importance": "obs",
                    "calibration": 16,
                    "round_to": 1,
                    "recovery": {"epochs": 1, "batch_size": 8},
                }
            },
        ],
        "deploy": ["onnx"],
        "measure": {"repeats": 3, "batch_size": 2},
    }
    return compress(Recipe.from_dict(recipe), work / "out", log=lambda line: None)


@pytest.mark.long
def test_a_student_comes_nearer_to_its_teachers_depths(run):
    rows = {row["stage"]: row for row in run.report["rows"]}
    assert rows["teacher"]["quality"] == pytest.approx({"abs_rel": 0, "delta_1": 1}, abs=1e-3)
    before, after = (rows[stage]["quality"]["abs_rel"] for stage in ("student", "1 distill"))
    assert after < 0.9 * before
    assert rows["2 prune"]["cost"]["macs"] < 0.9 * rows["1 distill"]["cost"]["macs"]
    details = rows["1 distill"]["details"]
    errors = [epoch["validation_abs_rel"] for epoch in details["epochs"]]
    assert errors[details["best_epoch"] - 1] == min(errors)
    (file,) = run.report["deployed"]
    assert file["max_difference"]["predicted_depth"] < 0.01
    assert file["quality"] == pytest.approx(rows["2 prune"]["quality"], abs=1e-3)
    card = (run.folder / "README.md").read_text()
    assert "pipeline_tag: depth-estimation" in card and "| relative error to the teacher's depth |" in card
    assert f"![{DEPTH.pictured}](figures/examples.png)" in card
    with pytest.raises(RunError, match="measured against its teacher, in a run alone"):
        evaluate_folder(str(run.folder), None)


@pytest.mark.long
def test_a_new_process_opens_the_folder_as_a_pipeline(run, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "picture.png")
    arguments = [sys.executable, "-c", CHILD, str(run.folder), str(tmp_path / "picture.png")]
    child = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert json.loads(child.stdout.splitlines()[-1]) == [30, 40]


@pytest.mark.long
def test_its_script_and_predict_write_the_depths_of_the_model(run, tmp_path):
    picture = tmp_path / "picture.png"
    Image.effect_noise((40, 30), 80).convert("RGB").save(picture)
    loaded = DEPTH.load(str(run.folder))
    with torch.no_grad():
        output = loaded.model(**loaded.processor(Image.open(picture), return_tensors="pt"))
    asked = torch.nn.functional.interpolate(output.predicted_depth[None], (30, 40), mode="bilinear")[0, 0].numpy()
    steps = (asked - asked.min()) / (asked.max() - asked.min()) * 65535
    ((name, file, *ends),) = said_alone(run.folder / run.report["deployed"][0]["script"], [picture])
    assert (name, file) == (str(picture), f"{picture}.depths.png")
    assert list(map(float, ends)) == pytest.approx([asked.min(), asked.max()], rel=0.01)
    assert np.abs(np.asarray(Image.open(file)) - steps).max() < 700  # a hundredth of the range
    for each in (".", "deploy/model.onnx"):
        command = ["predict", str(run.folder / each), str(picture), "--maps", str(tmp_path / each), "--json"]
        (row,) = json.loads(CliRunner().invoke(app, command).stdout)
        assert list(row["depth"].values()) == pytest.approx([asked.min(), asked.max()], rel=0.01)
        assert np.abs(np.asarray(Image.open(tmp_path / each / "picture.png.depths.png")) - steps).max() < 700
    command = ["benchmark", str(run.folder), str(run.folder / "deploy/model.onnx"), "--images", str(picture), "--json"]
    assert [row["agreement"] for row in json.loads(CliRunner().invoke(app, command).stdout)] == [1, 1]


@pytest.mark.long
def test_a_search_goes_by_the_error_to_the_models_own_depths(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "FINALISTS", 0)
    space = {"macs": [0.0, 0.3], "importance": ["taylor", "obs"], "blocks": [0.0], "width": [1.0], "image_size": [1.0]}
    splits = {"train": "train[:32]", "validation": "train[48:60]", "test": "train[60:72]"}
    request = Request.of(
        saved(tmp_path / "teacher", 0, 16),
        "digits",
        {"max_drop": 0.9},
        minutes=10,
        candidates=2,
        space=space | {"int8": [False], "students": []},
        overrides={"data.splits": splits, "measure": {"repeats": 3, "batch_size": 2}},
    )
    found = find_best(request, tmp_path / "found", log=lambda line: None).report["search"]
    assert found["metric"] == "abs_rel" and found["options"]["importance"] == ["obs"]
    whole, pruned, *_ = found["points"]
    assert whole["quality"] == pytest.approx(0, abs=1e-3) and pruned["lost"] > 0


def test_the_registered_student_is_the_published_one(tmp_path):
    """Yang et al., 2024, table 11: 24.8 M parameters."""
    with torch.device("meta"):
        model = build_registered("depth_anything_small", None).model
    assert model.num_parameters() == pytest.approx(24.8e6, rel=0.01)
    teacher = DEPTH.load(saved(tmp_path / "teacher", 0, 16))
    student = build_student(StudentSection(model="depth_anything_small", width=0.125), [], teacher, DEPTH)
    with torch.no_grad():
        assert student.model(torch.zeros(1, 3, 56, 56)).predicted_depth.shape == (1, 56, 56)


def test_what_lies_beside_its_pictures_is_not_looked_at(tmp_path):
    """One folder of pictures, folders of two depths, and a table: none of them means classes here."""
    for split in ("train", "test"):
        for number, place in enumerate(("2024", "2024/05")):
            (tmp_path / split / place).mkdir(parents=True, exist_ok=True)
            for value in range(12):
                name = tmp_path / split / place / f"{value}.png"
                Image.new("RGB", (8, 8), (value, 99 * number, len(split))).save(name)
    (tmp_path / "train" / "train.csv").write_text("id,label\n0,a\n")
    data = DEPTH.read(DataSection(path=str(tmp_path)), 0)
    assert (len(data.train) + len(data.validation), len(data.test)) == (24, 24) and not data.labelled


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"teacher": {"model": "a/b", "finetune": {"epochs": 1}}}, "name one, without 'finetune'"),
        ({"steps": [{"prune": {"importance": "taylor"}}]}, "'importance: taylor' asks how an error grows"),
    ],
)
def test_what_it_does_not_offer_is_refused(change, says):
    values = {
        "task": "depth",
        "teacher": "a/b",
        "student": "c/d",
        "data": "x",
        "steps": [{"distill": {"loss": "mse"}}],
    }
    with pytest.raises(UsageError, match=says):
        Recipe.from_dict(values | change)
