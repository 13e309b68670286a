"""`predict` and `benchmark`, with PyTorch and without, and what they refuse."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from hf_compress.cli import app
from hf_compress.device import timing
from hf_compress.device.model import DeviceModel
from hf_compress.device.tables import benchmark_table
from hf_compress.device.timing import Others, of_times
from hf_compress.device.using import benchmark, pictures_in, predictions
from hf_compress.ground.errors import UsageError

LIGHT = """
import sys
blocked = "torch torchvision transformers pydantic typer rich wrapt matplotlib datasets scipy"
sys.modules.update(dict.fromkeys(blocked.split()))
sys.argv = ["device", *sys.argv[1:]]
import runpy
runpy.run_module("hf_compress.device", run_name="__main__")
"""


def constant(name, logits):
    """A model that says the same to each picture, whose first pixel it adds to its first logit."""

    def see(picture):
        return picture[:1, :1, :1].astype(np.float32)

    def answer(pixel):
        return {"logits": np.array([[logits[0] + pixel.item(), *logits[1:]]], float)}

    return DeviceModel(name, "image-classification", ["cat", "dog", "owl"], see, answer)


@pytest.fixture
def images(tmp_path):
    for label, value in (("cat", 9), ("dog", 0)):
        (tmp_path / label).mkdir()
        Image.new("RGB", (2, 2), (value, 0, 0)).save(tmp_path / label / "a.png")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_predictions_are_the_most_probable_labels(images):
    rows = predictions(constant("m", [0.0, np.log(3), 0.0]), pictures_in([images]), top=2)
    assert [row["classes"][0]["label"] for row in rows] == ["cat", "dog"]
    assert rows[1]["classes"] == [
        {"label": "dog", "probability": pytest.approx(0.6)},
        {"label": "cat", "probability": pytest.approx(0.2)},
    ]


def test_a_benchmark_knows_agreement_and_accuracy(images):
    models = [constant("right", [0, 1, 0]), constant("wrong", [0, 0, 99])]
    right, wrong = benchmark(models, pictures_in([images]), repeats=3)
    assert (right["agreement"], right["accuracy"]) == (1, 1)
    assert (wrong["agreement"], wrong["accuracy"]) == (0, 0)
    assert 0 < right["p50_ms"] <= right["p95_ms"]
    assert "accuracy" not in benchmark(models, [next((images / "cat").iterdir()).rename(images / "a.png")], 1)[0]
    assert "1.00x" in benchmark_table([right])


def test_noise_is_the_spread_of_the_rounds():
    assert of_times([1, 1, 2, 2, 1, 1, 1, 1, 1, 1])["noise"] == 1
    assert of_times([3.0])["noise"] == 0


def test_other_processes_are_seen(monkeypatch):
    clocks = iter([(0.0, 1.0, 5.0), *[(10.0, 6.0, 25.0)] * 3])  # 10 s, 5 of them own, 20 of all cores
    monkeypatch.setattr(timing, "_clocks", lambda: next(clocks))
    others = Others()
    assert others.cores == 1.5
    assert others.warning[0].startswith("other processes took 1.5 of")


def test_an_idle_machine_is_no_warning(monkeypatch):
    clocks = iter([(0.0, 0.0, 0.0), (10.0, 10.0, 10.5)])
    monkeypatch.setattr(timing, "_clocks", lambda: next(clocks))
    assert Others().warning == []


def test_files_are_used_where_only_numpy_pillow_and_the_runtime_are_installed(run):
    made, images = run
    file = made.folder / made.report["deployed"][1]["file"]
    command = [sys.executable, "-c", LIGHT, "predict", file, *images[:3], "--json"]
    alone = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    told = CliRunner().invoke(app, ["predict", str(file), *map(str, images[:3]), "--json"])
    assert json.loads(alone.stdout) == json.loads(told.stdout)
    assert len(json.loads(alone.stdout)) == 3


def test_a_folder_in_pytorch_is_compared_with_its_files(run):
    made, images = run
    rows = made.report["deployed"]
    names = [str(made.folder), *(str(made.folder / row["file"]) for row in rows)]
    options = ["--images", str(images[0].parents[1]), "--repeats", "2", "--json"]
    result = CliRunner().invoke(app, ["benchmark", *names, *options])
    found = json.loads(result.stdout)
    accuracies = [made.report["rows"][-1]["quality"]["accuracy"], *(row["quality"]["accuracy"] for row in rows)]
    assert [row["accuracy"] for row in found] == pytest.approx(accuracies, abs=1e-9)
    assert [row["bytes"] for row in found] == [0, *(row["cost"]["bytes"] for row in rows)]


def test_what_is_no_deployed_file_is_one_sentence(tmp_path, images):
    file = tmp_path / "model.onnx"
    with pytest.raises(UsageError, match=r"model\.onnx' is missing"):
        DeviceModel.open(file)
    file.write_bytes(b"x")
    with pytest.raises(UsageError, match=r"model\.onnx\.json' is missing"):
        DeviceModel.open(file)
    beside = tmp_path / "model.onnx.json"
    beside.write_text("[]")
    with pytest.raises(UsageError, match="describes no model of a runtime that is known here"):
        DeviceModel.open(file)
    row = {"runtime": "onnx", "max_difference": {"logits": 0.1}, "cost": {"bytes": 1}}
    described = {"labels": ["a"], "preprocessing": {"do_resize": False}, "export": row | {"no_script": "it is odd"}}
    beside.write_text(json.dumps(described))
    with pytest.raises(UsageError, match="cannot be used without PyTorch: it is odd; give its run folder"):
        DeviceModel.open(file)
    beside.write_text(json.dumps(described | {"export": row | {"script": "predict_onnx.py"}}))
    with pytest.raises(UsageError, match="cannot be opened by onnx"):
        DeviceModel.open(file)
    with pytest.raises(UsageError, match=r"notes\.txt' is no whole picture"):
        predictions(constant("m", [0, 0, 0]), pictures_in([images / "notes.txt"]))
    with pytest.raises(UsageError, match="is no picture, and no folder that holds any"):
        pictures_in([tmp_path / "nothing"])
