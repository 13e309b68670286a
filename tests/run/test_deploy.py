"""A recipe's section `deploy`: files for other runtimes, measured there, as rows of report, card and gallery."""

import json
import logging

import pytest
import torch
from reports import deployed, report
from transformers import AutoModelForImageClassification, Dinov2Config, Dinov2Model, ViTImageProcessor

from hf_compress import Recipe, compress, export, register_runtime, save
from hf_compress.auto.request import Request
from hf_compress.ground.errors import UsageError
from hf_compress.ground.manifest import Manifest
from hf_compress.report.card import render_card
from hf_compress.report.card_facts import steps_table
from hf_compress.report.gallery import write_gallery
from hf_compress.report.limits import limits
from hf_compress.report.run import REPORT, check_report, write_report
from hf_compress.run.deploy import FOLDER
from hf_compress.runtimes import RUNTIMES, Runtime

STUDENT = {"model": "resnet18", "width": 0.125, "image_size": 16}
SPLITS = {"train": "train[:600]", "validation": "train[600:700]", "test": "train[700:900]"}
DATA = {"path": "digits", "splits": SPLITS}
QUANTIZE = {"quantize": {"images": 16, "repeats": 3}}


def recipe(**sections):
    given = {"data": DATA, "student": STUDENT, "steps": [], "measure": {"repeats": 3, "batch_size": 2}}
    return Recipe.from_dict(given | sections)


class Broken(Runtime):
    suffix = ".broken"

    def write(self, model, file):
        file.write_text("half of it")
        raise RuntimeError("it did not work: take these steps") from ValueError("no such operator\nand much more")

    def load(self, file, threads): ...


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("onnxruntime")
    register_runtime("broken")(Broken)
    lines = []
    try:
        steps = [{"finetune": {"epochs": 3, "learning_rate": 3e-3}}, QUANTIZE]
        folder = tmp_path_factory.mktemp("run") / "run"
        yield compress(recipe(steps=steps, deploy=["broken", "onnx"]), folder, log=lines.append), lines
    finally:
        del RUNTIMES._entries["broken"]


def test_files_are_measured_in_their_runtime_and_described(run):
    made, _ = run
    last, (exact, quantized) = made.report["rows"][-1], made.report["deployed"]
    assert [exact["stage"], quantized["stage"]] == ["onnx", "onnx int8"]
    assert exact["quality"]["accuracy"] == last["quality"]["accuracy"] > 0.5
    assert abs(quantized["quality"]["accuracy"] - last["quality"]["accuracy"]) < 0.06
    assert exact["max_difference"]["logits"] < 1e-4 < quantized["max_difference"]["logits"]
    assert quantized["cost"]["bytes"] < 0.6 * exact["cost"]["bytes"]
    assert quantized["latency"].keys() == quantized["eager_latency"].keys() == {"batch_1", "batch_2"}
    assert {entry["against"] for entry in quantized["differences"]} == {"student", "1 finetune"}
    names = {f"{FOLDER}/model{infix}.onnx{end}" for infix in ("", ".int8") for end in ("", ".json")}
    names |= {exact["script"], quantized["script"]}
    assert exact["script"] == f"{FOLDER}/predict_onnx.py"
    assert {path.relative_to(made.folder).as_posix() for path in (made.folder / FOLDER).iterdir()} == names
    assert names < Manifest.of(made.folder).files.keys()
    described = json.loads((made.folder / f"{quantized['file']}.json").read_text())
    assert described["export"] == quantized
    assert described["labels"] == list("0123456789")


def test_what_cannot_be_written_is_said_and_ends_no_run(run):
    made, lines = run
    sentence = "the model cannot be exported to broken: no such operator"
    assert made.report["not_deployed"] == [sentence]
    assert f"not deployed: {sentence}" in lines
    assert f"Not deployed: {sentence}" in (made.folder / "README.md").read_text()


def test_the_card_compares_the_files_with_the_models_and_names_the_one_to_take(run):
    folder, files = run[0].folder, run[0].report["deployed"]
    card = (folder / "README.md").read_text()
    assert "| resnet18 before, PyTorch | this model, PyTorch | change | onnx | onnx int8 |" in card
    assert card.count("For the device, take deploy/model.") == 1
    assert (folder / "figures" / "device.png").is_file()
    (row,) = export(folder, "pt2")
    assert row["latency"].keys() == files[0]["latency"].keys(), "the recipe's batch sizes"
    assert "| change | onnx | onnx int8 | pt2 |" in (folder / "README.md").read_text()


def test_a_card_that_was_edited_stays_and_its_owner_is_told(run, caplog):
    card = run[0].folder / "README.md"
    before = card.read_text()
    card.write_text("mine")
    export(run[0].folder, "pt2")
    assert card.read_text() == "mine"
    assert "the card does not show the new files" in caplog.text
    card.write_text(before)


def test_the_checkpoint_stays_in_floats(run):
    assert AutoModelForImageClassification.from_pretrained(run[0].folder).dtype == torch.float32


def test_a_model_is_deployed_as_it_is(tmp_path):
    made = compress(recipe(deploy=["pt2"]), tmp_path / "run", log=lambda line: None)
    assert [row["stage"] for row in made.report["rows"]] == ["student", "unchanged"]
    assert made.report["deployed"][0]["quality"] == made.report["rows"][0]["quality"]
    assert "made with hf-compress: pt2" in (made.folder / "README.md").read_text()


@pytest.mark.long
def test_what_runs_on_other_machines_alone_lies_there_unmeasured_and_that_is_said(tmp_path):
    pytest.importorskip("coremltools")
    lines = []
    made = compress(recipe(deploy=["coreml"]), tmp_path / "run", log=lines.append)
    (sentence,) = made.report["not_run"]
    assert made.report["deployed"] == made.report["not_deployed"] == []
    assert sentence in lines
    assert sentence in (made.folder / "README.md").read_text()
    names = {"deploy/model.mlpackage/Manifest.json", "deploy/model.mlpackage.json"}
    assert names < Manifest.of(made.folder).files.keys()


def test_a_search_takes_no_runtime_that_does_not_run_here():
    with pytest.raises(UsageError, match="'runtime' cannot be coreml: candidates are timed in it"):
        Request.of("microsoft/resnet-18", "digits", {"bytes": "1MB"}, runtime="coreml")


@pytest.mark.long
def test_a_backbone_is_deployed_with_all_its_outputs(tmp_path):
    config = Dinov2Config(num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8, hidden_size=32)
    save(Dinov2Model(config), tmp_path / "teacher", ViTImageProcessor(size={"height": 16, "width": 16}))
    steps, student = [{"distill_features": {"epochs": 1}}], {"model": "resnet18", "width": 0.125}
    features = recipe(task="features", teacher=str(tmp_path / "teacher"), student=student, steps=steps, deploy=["pt2"])
    report = compress(features, tmp_path / "run", log=lambda line: None).report
    (row,) = report["deployed"]
    assert row["max_difference"].keys() == {"last_hidden_state", "pooler_output"}
    assert row["quality"] == pytest.approx(report["rows"][-1]["quality"], abs=1e-4)
    assert "top1_agreement" not in row
    assert row["no_script"] == "what models of its kind say is not known here"


def test_the_step_of_earlier_versions_is_a_deployment(caplog):
    with caplog.at_level(logging.WARNING):
        old = recipe(steps=["finetune", {"quantize": {"repeats": 3}}, {"prune": {}}])
    assert old.step_names == ["finetune", "prune"]
    assert [section.model_dump() for section in old.deploy] == [{"to": "onnx", "int8": True, "images": 256}]
    assert "'deploy: [{to: onnx, int8: true, images: 256}]'" in caplog.text
    assert recipe(steps=[QUANTIZE]).deploy[0].images == 16
    assert recipe(steps=["quantize"]).step_names == ["quantize"]


@pytest.mark.parametrize(
    ("sections", "sentence"),
    [
        ({"deploy": ["onxx"]}, "'deploy.0' cannot be {'to': 'onxx'}: unknown runtime 'onxx'; did you mean 'onnx'?"),
        (
            {"deploy": [{"to": "pt2", "int8": True}]},
            "pt2 has no int8 here: choose executorch or litert or onnx or openvino",
        ),
        ({"deploy": [{"to": "ncnn", "int8": True}]}, "ncnn2int8, are in neither of the wheels ncnn and pnnx): choose"),
        ({"deploy": ["pt2", "pt2"]}, "'deploy' writes pt2 twice"),
        ({}, "'steps' cannot be []: name a step, or what to 'deploy'"),
        (
            {"steps": [{"quantize": {"images": 3, "exclud": 3}}]},
            "unknown key 'steps.0.quantize.exclud' (value 3)",
        ),
    ],
)
def test_a_wrong_section_is_one_sentence(sections, sentence):
    with pytest.raises(UsageError) as error:
        recipe(**sections)
    assert sentence in str(error.value)


def test_deployed_rows_stand_on_the_card_and_in_the_gallery(tmp_path):
    whole = report(deployed=[deployed()], not_deployed=["the model cannot be exported to litert: no such operator"])
    headings, rows = steps_table(whole)
    assert rows[-1][:3] == ["onnx int8", "deploy/model.int8.onnx, run by onnx", "0.8750"]
    assert rows[-1][headings.index("size on disk")] == "1.00 MB"
    assert rows[-1][headings.index("latency, one image, p50")] == "1.00 ms"
    assert rows[-1][-1] == "-2.50 points (-5.00 to +1.00)"
    assert "Not deployed: the model cannot be exported to litert: no such operator." in limits(whole)
    write_report(tmp_path / REPORT, whole)
    assert "| onnx int8 |" in str(render_card(tmp_path))
    assert write_gallery(str(tmp_path), tmp_path / "index.html") == 1
    page = (tmp_path / "index.html").read_text()
    assert "1 run on photos" in page
    assert f"{tmp_path.name}, onnx int8" in page and 'data-point="2"' in page, "a third point in the plots"


@pytest.mark.parametrize("wrong", [{"precision": "int4"}, {"max_difference": {"logits": -1.0}}, {"cost": {}}])
def test_a_report_with_a_wrong_row_is_refused(wrong):
    with pytest.raises(UsageError, match="no report of a run"):
        check_report(report(deployed=[deployed(**wrong)]), "report.json")


def test_reports_of_earlier_versions_load():
    details = {"file": "model_int8.onnx", "int8": {"bytes": 1, "validation_accuracy": 0.5, "latency": {}}}
    old = report(exports=[{"runtime": "onnx", "file": "model.onnx", "bytes": 1, "max_difference": 0.0}])
    old["rows"].append(old["rows"][-1] | {"stage": "2 quantize", "details": details})
    check_report(old, "report.json")
