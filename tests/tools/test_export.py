"""Every runtime says what PyTorch says, on real images; labels and preprocessing travel with the file."""

import json
import os
import shutil
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from reports import report
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification
from typer.testing import CliRunner

import hf_compress
from hf_compress import Recipe, register_runtime, save
from hf_compress.cli import app
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.ground.manifest import MANIFEST, record
from hf_compress.models.load import label_options
from hf_compress.models.students import build_registered
from hf_compress.report.limits import limits
from hf_compress.report.run import REPORT, read_report, write_report
from hf_compress.report.table import deployed_table
from hf_compress.runtimes import RUNTIMES, Runtime, runtime
from hf_compress.tools.evaluation import evaluate_folder

DIGITS = list("0123456789")
SPLITS = {"train": "train[:60]", "validation": "train[60:80]", "test": "train[80:120]"}


def small_resnet() -> ResNetForImageClassification:
    """One stage, random weights, and batch norms as after training."""
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[1], layer_type="basic", **label_options(DIGITS))
    model = ResNetForImageClassification(config).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder as `compress` leaves it, of a model that is quick to export."""
    folder = tmp_path_factory.mktemp("run")
    processor = build_registered("resnet18", DIGITS, width=0.125, image_size=32).processor
    save(small_resnet(), folder, processor)
    recipe = Recipe.from_dict(
        {"teacher": "microsoft/x", "data": {"path": "digits", "splits": SPLITS}, "steps": ["prune"]}
    )
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    write_report(folder / REPORT, report(labels=DIGITS))
    record(folder)
    return folder


def check_row(row, folder):
    assert row["cost"]["bytes"] >= (folder / row["file"]).stat().st_size > 1000
    assert row["quality"].keys() == {"accuracy", "roc_auc"}
    assert all(row[key]["batch_1"]["p50_ms"] > 0 for key in ("latency", "eager_latency"))
    if row["precision"] == "float32":
        assert row["max_difference"]["logits"] < 1e-4
        assert row["top1_agreement"] == 1
    else:
        assert 0 < row["max_difference"]["logits"] < 1
        assert 0 < row["int8_error"] < 0.05
    described = json.loads((folder / (row["file"] + ".json")).read_text())
    assert described["labels"] == DIGITS
    assert described["preprocessing"]["size"] == {"height": 32, "width": 32}
    assert described["export"] == row


def reported(folder):
    return {row["file"]: row for row in json.loads((folder / REPORT).read_text())["deployed"]}


def test_onnx_has_a_dynamic_batch_its_labels_no_batch_norm_and_an_int8_version(folder):
    onnx = pytest.importorskip("onnx")
    rows = hf_compress.export(folder, "onnx", int8=True)
    assert [row["file"] for row in rows] == ["deploy/model.onnx", "deploy/model.int8.onnx"]
    assert [row["stage"] for row in rows] == ["onnx", "onnx int8"]
    for row in rows:
        check_row(row, folder)
        assert reported(folder)[row["file"]] == row
    model, quantized = (onnx.load(folder / row["file"]) for row in rows)
    assert not any("Norm" in node.op_type for node in model.graph.node)
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in quantized.graph.node}
    for file in (model, quantized):
        assert json.loads({p.key: p.value for p in file.metadata_props}["labels"]) == DIGITS
        assert file.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    (logits,) = runtime("onnx").load(folder / rows[0]["file"], threads=1)(np.zeros((5, 3, 32, 32), np.float32))
    assert logits.shape == (5, 10)
    kinds = [tensor for tensor in quantized.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    weights = [onnx.numpy_helper.to_array(tensor) for tensor in kinds if len(tensor.dims) == 4]
    assert weights
    assert all(-64 <= weight.min() <= weight.max() <= 64 for weight in weights)  # eight bits overflow without VNNI


def test_a_backbone_is_judged_by_its_neighbours(tmp_path):
    built = build_registered("resnet18", None, width=0.125, image_size=32, auto_class="AutoModel")
    save(built.model, tmp_path, built.processor)
    sections = {"task": "features", "student": "resnet18", "data": {"path": "digits", "splits": SPLITS}}
    recipe = Recipe.from_dict(sections | {"teacher": "microsoft/x", "steps": ["distill_features"]})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    (row,) = hf_compress.export(tmp_path, "pt2")
    assert row["quality"].keys() == {"knn_accuracy"}
    assert row["quality"] == pytest.approx(evaluate_folder(str(tmp_path), None)["quality"])


def test_a_second_export_replaces_its_row_and_keeps_the_others(folder):
    pytest.importorskip("onnxruntime")
    hf_compress.export(folder, ["onnx", "pt2"])
    before = reported(folder)
    (row,) = hf_compress.export(folder, "pt2")
    check_row(row, folder)
    after = reported(folder)
    assert after["deploy/model.onnx"] == before["deploy/model.onnx"]
    assert after["deploy/model.pt2"] == row != before["deploy/model.pt2"]


def test_a_pt2_archive_holds_labels_and_no_batch_norm(folder):
    result = CliRunner().invoke(app, ["export", str(folder), "--to", "pt2"])
    assert result.exit_code == 0
    assert "same class as PyTorch" in result.stdout
    extra = {"labels": "", "preprocessing": ""}
    program = torch.export.load(folder / "deploy/model.pt2", extra_files=extra)
    assert json.loads(extra["labels"]) == DIGITS
    assert not any("norm" in str(node.target) for node in program.graph.nodes)
    assert program.module()(torch.zeros(7, 3, 32, 32)).shape == (7, 10)


def test_openvino_computes_in_float32_and_knows_labels(folder):
    openvino = pytest.importorskip("openvino")
    (row,) = hf_compress.export(folder, "openvino")
    check_row(row, folder)
    model = openvino.Core().read_model(folder / "deploy/model.xml")
    assert json.loads(model.get_rt_info(["hf_compress", "labels"]).astype(str)) == DIGITS
    assert row["cost"]["bytes"] == sum((folder / f"deploy/model.{end}").stat().st_size for end in ("xml", "bin"))
    assert [str(dim) for dim in model.inputs[0].partial_shape] == ["?", "3", "32", "32"]


@pytest.mark.long
def test_executorch_in_float32_and_int8(folder):
    pytest.importorskip("executorch")
    rows = hf_compress.export(folder, "executorch", int8=True)
    for row in rows:
        check_row(row, folder)
    assert rows[1]["cost"]["bytes"] < rows[0]["cost"]["bytes"]


@pytest.mark.long
def test_core_ml_is_looked_into_and_says_that_it_was_not_run(folder, caplog):
    coremltools = pytest.importorskip("coremltools")
    before = len(json.loads((folder / REPORT).read_text()).get("deployed", []))
    for _ in range(2):
        assert hf_compress.export(folder, "coreml") == []
    file = folder / "deploy/model.mlpackage"
    spec = coremltools.models.MLModel(str(file), skip_model_load=True).get_spec()
    (taken,), (given,) = spec.description.input, spec.description.output
    assert (taken.name, [*taken.type.multiArrayType.shape]) == ("pixel_values", [1, 3, 32, 32])
    assert (given.name, [*given.type.multiArrayType.shape]) == ("logits", [1, 10])
    assert json.loads(spec.description.metadata.userDefined["labels"]) == DIGITS
    (main,) = spec.mlProgram.functions.values()
    (block,) = main.block_specializations.values()
    kinds = [operation.type for operation in block.operations]
    assert kinds.count("conv") == 4 and not any("norm" in kind for kind in kinds)
    told = json.loads((folder / REPORT).read_text())
    (sentence,) = told["not_run"]
    assert len(told.get("deployed", [])) == before
    assert sentence in caplog.text
    assert "runs on a Mac only and was not run here" in sentence
    assert f"in {len(kinds) - kinds.count('const')} operations" in sentence
    described = json.loads((folder / "deploy/model.mlpackage.json").read_text())
    assert described["labels"] == DIGITS
    files = [path for path in file.rglob("*") if path.is_file()]
    assert described["export"]["cost"]["bytes"] == sum(path.stat().st_size for path in files)
    assert limits(read_report(folder / REPORT))[0] == f"{sentence}."


def test_litert_in_float32_and_int8(folder, capfd):
    pytest.importorskip("litert_torch", reason="`make test-litert` has an environment for it")
    rows = hf_compress.export(folder, "litert", int8=True)
    for row in rows:
        check_row(row, folder)
    assert rows[1]["cost"]["bytes"] < 0.7 * rows[0]["cost"]["bytes"]
    assert "LiteRT-Torch Convert" not in capfd.readouterr().out


@pytest.mark.long
def test_images_with_other_labels_still_check_an_export(tmp_path):
    pytest.importorskip("onnxruntime")
    processor = build_registered("resnet18", list("abc"), width=0.125, image_size=32).processor
    model = ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[1], layer_type="basic", **label_options(list("abc")))
    )
    save(model, tmp_path / "model", processor)
    (row,) = hf_compress.export(tmp_path / "model", "onnx", data="digits", output=tmp_path / "out")
    assert row["quality"] == {}
    assert row["max_difference"]["logits"] < 1e-4
    files = {"model.onnx", "model.onnx.json", "predict_onnx.py"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == files | {MANIFEST}
    for name in sorted(files):
        (tmp_path / "out" / name).write_text("years of work")
        with pytest.raises(UsageError, match=f"{name}' would be replaced"):
            hf_compress.export(tmp_path / "model", "onnx", data="digits", output=tmp_path / "out")
        assert (tmp_path / "out" / name).read_text() == "years of work"
        (tmp_path / "out" / name).unlink()
    assert "accuracy" not in [str(cell) for cell in deployed_table([row]).columns[0].cells]


def test_an_export_that_says_something_else_is_refused_and_removed(folder):
    class Wrong(Runtime):
        suffix = ".wrong"

        def write(self, model, file):
            file.write_bytes(b"0" * 2000)

        def load(self, file, threads):
            return lambda pixel_values: [np.zeros((len(pixel_values), 10), np.float32)]

    register_runtime("wrong")(Wrong)
    try:
        with pytest.raises(RunError, match="the wrong export does not say the same as PyTorch"):
            hf_compress.export(folder, "wrong")
    finally:
        del RUNTIMES._entries["wrong"]
    assert not list(folder.rglob("*.wrong")) + list(folder.glob(".new*"))


def test_how_far_int8_moves_the_outputs_is_told_of_every_runtime(folder, tmp_path):
    written = {}

    class Shifted(Runtime):
        suffix = ".shifted"
        int8 = True

        def write(self, model, file):
            file.write_bytes(b"0" * 2000)
            written[file.name] = model

        def load(self, file, threads):
            return lambda pixel_values: [written[file.name].call(pixel_values)[0] + 0.1 * ("int8" in file.name)]

    register_runtime("shifted")(Shifted)
    try:
        floats, int8 = hf_compress.export(folder, "shifted", int8=True, output=tmp_path)
    finally:
        del RUNTIMES._entries["shifted"]
    model = written["model.int8.shifted"]
    said = np.concatenate([model.call(image.numpy())[0] for image in model.calibration[::2]])
    assert len(said) == 30, "at most 32 of the 60 training images, spread evenly"
    assert int8["int8_error"] == pytest.approx(0.01 / np.square(said - said.mean(axis=0)).mean(), rel=1e-3)
    assert "int8_error" not in floats


def test_what_a_report_tells_is_of_its_own_test_images(folder, tmp_path, caplog):
    shutil.copytree(folder, tmp_path / "run")
    other = tmp_path / "other"
    for label in DIGITS:
        (other / label).mkdir(parents=True)
        for number in range(6):
            Image.new("L", (8, 8), 20 * int(label) + number).save(other / label / f"{number}.png")
    (row,) = hf_compress.export(tmp_path / "run", "onnx", data=str(other))
    assert row["quality"] == {} and "the quality of the files is not measured" in caplog.text
    (row,) = hf_compress.export(tmp_path / "run", "onnx", data=str(other), output=tmp_path / "elsewhere")
    assert row["quality"].keys() == {"accuracy", "roc_auc"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_sentence(folder, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UsageError, match="cannot be written: Permission denied"):
        hf_compress.export(folder, "onnx", output=tmp_path / "new")


def test_a_folder_inside_a_file_is_one_sentence(folder, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match=r"file/sub' cannot be written: Not a directory"):
        hf_compress.export(folder, "onnx", output=tmp_path / "file" / "sub")


@pytest.mark.parametrize(
    ("to", "options", "sentence"),
    [
        ("onxx", {}, "unknown runtime 'onxx'; did you mean 'onnx'?"),
        ("pt2", {"int8": True}, "pt2 has no int8 here: choose executorch or litert or onnx or openvino"),
    ],
)
def test_wrong_arguments_are_one_sentence(folder, to, options, sentence):
    with pytest.raises(UsageError) as error:
        hf_compress.export(folder, to, **options)
    assert sentence in str(error.value)


def test_a_hub_id_needs_an_output_folder():
    with pytest.raises(UsageError, match="'someone/model' is not a folder to write into: pass --output"):
        hf_compress.export("someone/model", "pt2")


COMMANDS = {
    "coreml": "'hf-compress[coreml]'",
    "executorch": "'hf-compress[executorch]'",
    "litert": "'hf-compress[litert]'",
    "ncnn": "'hf-compress[ncnn]'",
    "onnx": "onnxruntime",
    "openvino": "'hf-compress[openvino]'",
    "pt2": "torch",
}


@pytest.mark.parametrize("name", list(RUNTIMES))
def test_a_missing_extra_is_answered_by_the_command_that_installs_it(name, folder, monkeypatch):
    wanted, kind = COMMANDS[name], RUNTIMES.get(name)
    monkeypatch.setitem(sys.modules, kind.package, None)  # as where it is not installed
    with pytest.raises(UsageError) as error:
        hf_compress.export(folder, name)
    assert str(error.value).startswith(f"{name} needs {kind.package} (")
    assert str(error.value).endswith(f"): pip install {wanted}")
    extras = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert kind.extra in extras["optional-dependencies"] or any(wanted in line for line in extras["dependencies"])
