"""The task of a checkpoint that nobody names: what is evaluated, exported and searched as what it is."""

import json

import pytest
from detectors import rt_detr, saved_detector
from shapes import draw_folder, saved_segmenter

from hf_compress import cli, export
from hf_compress.auto.request import Request
from hf_compress.ground.errors import UsageError
from hf_compress.tasks.declared import declared_task
from hf_compress.tools.evaluation import evaluate_folder


@pytest.mark.parametrize(
    ("config", "task"),
    [
        ({"architectures": ["ResNetForImageClassification"]}, "classification"),
        ({"architectures": ["DeiTForImageClassificationWithTeacher"]}, "classification"),
        ({"architectures": ["MobileNetV2ForSemanticSegmentation"]}, "segmentation"),
        ({"architectures": ["YolosForObjectDetection"]}, "detection"),
        ({"architectures": ["DPTForDepthEstimation"]}, "depth"),
        ({"architectures": ["MaskFormerForInstanceSegmentation"]}, "classification"),
        ({"architectures": ["Dinov2Model"], "auto_map": {"AutoModel": "code.Model"}}, "classification"),
        ({"architectures": ["Own"], "auto_map": {"AutoModelForObjectDetection": "code.Own"}}, "detection"),
        ({"architecture": "resnet18"}, "classification"),
        ({"architectures": None, "auto_map": []}, "classification"),
        ({"architectures": 3, "auto_map": [1, None]}, "classification"),
        ([], "classification"),
    ],
)
def test_a_config_says_what_a_checkpoint_was_made_for(config, task, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert declared_task(str(tmp_path)).name == task


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("resnet18", "classification"),
        ("segformer_b0", "segmentation"),
        ("depth_anything_small", "depth"),
        ("/no/such/folder", "classification"),
        ("./neither", "classification"),
        ("nobody/has-this", "classification"),
        ("torchvision:resnet18", "classification"),
        ("a b?c", "classification"),
    ],
)
def test_what_has_no_config_that_can_be_read_is_for_classification(name, task, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert declared_task(name).name == task


def test_a_config_that_is_no_json_says_nothing(tmp_path):
    (tmp_path / "config.json").write_text("{")
    assert declared_task(str(tmp_path)).name == "classification"


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return saved_segmenter(tmp_path_factory.mktemp("segmenter"))


@pytest.fixture(scope="module")
def masks(tmp_path_factory):
    return str(draw_folder(tmp_path_factory.mktemp("masks"), train=12, test=6))


def test_a_search_is_for_what_the_model_was_made_for(segmenter, tmp_path):
    assert Request.of(segmenter, "./masks", {"faster": 2}).recipe.task == "segmentation"
    detector = saved_detector(rt_detr(), tmp_path)
    assert Request.of(detector, "./boxes", {"faster": 2}).recipe.task == "detection"
    asked = Request.of(segmenter, "./masks", {"faster": 2}, overrides={"task": "classification"})
    assert asked.recipe.task == "classification"
    with pytest.raises(UsageError, match="'task: features' has no pruning"):
        Request.of(segmenter, "./masks", {"faster": 2}, overrides={"task": "features"})


def test_a_saved_segmenter_is_measured_and_exported_as_one(segmenter, masks, tmp_path):
    assert set(evaluate_folder(segmenter, masks)["quality"]) >= {"mean_iou", "pixel_accuracy"}
    [row] = export(segmenter, "onnx", data=masks, output=tmp_path)
    assert "mean_iou" in row["quality"] and (tmp_path / "model.onnx").is_file()


@pytest.mark.long
def test_a_command_with_one_step_takes_a_segmenter_as_one(segmenter, masks, tmp_path):
    arguments = ["prune", "--model", segmenter, "--data", masks, "--amount", "0.2", "--epochs", "0"]
    with pytest.raises(SystemExit) as stop:
        cli.main([*arguments, str(tmp_path / "run")])
    assert not stop.value.code
    assert json.loads((tmp_path / "run" / "report.json").read_text())["task"] == "segmentation"


@pytest.mark.long
def test_a_compressor_takes_a_segmenter_as_one(segmenter, masks, tmp_path):
    optimum = pytest.importorskip("hf_compress.adapters.optimum")
    config = optimum.PruningConfig(amount=0.2, iterative=False, recovery={"epochs": 0})
    run = optimum.Compressor(segmenter).compress(config, masks, tmp_path / "run")
    assert run.report["task"] == "segmentation"
    with pytest.raises(UsageError, match="features"):
        said = optimum.CompressionConfig([config], task="features")
        optimum.Compressor(segmenter).compress(said, masks, tmp_path / "other")
