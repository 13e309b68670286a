"""A deployed int8 file goes to the Hub alone, as the quantized form of a model that is there."""

import json

import pytest
from hub_client import ALICE
from hub_storage import card_metadata
from reports import deployed, report

from hf_compress.ground.errors import UsageError
from hf_compress.ground.manifest import adding
from hf_compress.hub.publish import plan_file
from hf_compress.report.run import write_report

FILE = "deploy/model.int8.onnx"
NAMES = {"model.int8.onnx", "model.int8.onnx.json", "predict_onnx_int8.py"}
CONFIG = {
    "model_type": "resnet",
    "id2label": {"0": "cat"},
    "auto_map": {"AutoModel": "x.Y"},
    "quantization_config": {},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    with adding(folder) as new:
        (new / "deploy").mkdir()
        for name in (*NAMES, "model.onnx", "predict_onnx.py", "model.int8.pte", "model.int8.pte.json"):
            (new / "deploy" / name).write_text(f"this is {name}")
        for name, content in (("config.json", CONFIG), ("preprocessor_config.json", {"do_resize": True})):
            (new / name).write_text(json.dumps(content))
        files = [
            deployed(script="deploy/predict_onnx_int8.py"),
            deployed(file="deploy/model.onnx", precision="float32"),
        ]
        write_report(new / "report.json", report(deployed=files))
    return folder


def test_what_is_sent_is_the_file_with_what_makes_it_usable(folder):
    plan = plan_file(folder, FILE, "alice/small-int8", "alice/small", license="mit")
    assert set(plan.files) == NAMES | {
        "README.md", "config.json", "hf_compress_manifest.json", "preprocessor_config.json"
    }  # fmt: skip
    data = card_metadata(plan.card)
    assert (data["base_model"], data["base_model_relation"]) == (["alice/small"], "quantized")
    assert (data["library_name"], data["pipeline_tag"], data["license"]) == ("onnx", "image-classification", "mit")
    assert data["tags"] == ["hf-compress", "int8", "onnx"]
    (result,) = data["model-index"][0]["results"]
    assert [metric["value"] for metric in result["metrics"]] == [0.875, 0.9]
    assert "| accuracy | 0.9000 | 0.8750 | -2.50 points (-5.00 to +1.00) |" in plan.card
    assert "python predict_onnx_int8.py photo.jpg" in plan.card


@pytest.mark.parametrize(
    ("file", "base", "says"),
    [
        ("deploy/model.onnx", "a/b", "is no int8 file of .*: they are deploy/model.int8.onnx"),
        (FILE, None, "say of which repository the file is the int8 form: --base-model"),
        (FILE, "no id", "'no id' is no repository of the Hub: name it user/name"),
        (FILE, "alice/small-int8", "is the repository of the model itself: send its int8 form to another one"),
    ],
)
def test_what_is_refused(file, base, says, folder):
    with pytest.raises(UsageError, match=says):
        plan_file(folder, file, "alice/small-int8", base)


def test_a_file_that_was_changed_since_it_was_measured_stays(folder):
    place = folder / FILE
    before = place.read_text()
    place.write_text("another model")
    try:
        with pytest.raises(UsageError, match="is not as it was measured: export it again"):
            plan_file(folder, FILE, "alice/small-int8", "alice/small")
    finally:
        place.write_text(before)


@pytest.mark.long
def test_the_file_goes_to_the_hub_in_one_commit(hub, client, folder):
    options = ("--to", "alice/small-int8", "--file", FILE, "--base-model", "alice/small")
    result = client.cli("publish", folder, *options, HF_TOKEN=ALICE)
    assert result.code == 0, result.err
    files = hub.files("alice/small-int8")
    assert set(files) >= NAMES and json.loads(files["config.json"]) == {
        "id2label": {"0": "cat"}, "model_type": "resnet"
    }  # fmt: skip
    assert "nothing has changed" in client.cli("publish", folder, *options, HF_TOKEN=ALICE).out
    assert "--file and --base-model go together" in client.cli("publish", folder, *options[:4], HF_TOKEN=ALICE).error
