"""The example script, as a user runs it, on tiny settings."""

import runpy
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification

from hf_compress.steps.pruning.remove.weights import prunable_weights, sparsity

pytest.importorskip("optimum.quantization_base")
SCRIPT = Path(__file__).parents[2] / "examples" / "image_classification_compression.py"
QUICK = ["--per_device_train_batch_size", "4", "--report_to", "none", "--disable_tqdm", "true", "--use_cpu", "true"]


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))["main"]


def run(script, folder, *arguments):
    return script([*QUICK, "--output_dir", str(folder), "--model_name", "resnet18", *arguments])


def test_a_teacher_then_a_pruned_student_on_a_folder_of_images(script, tmp_path):
    for number in range(40):
        label, colour = (("cat", "red"), ("dog", "blue"))[number % 2]
        (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), colour).save(tmp_path / "photos" / label / f"{number}.png")
    photos = ["--dataset", str(tmp_path / "photos"), "--learning_rate", "3e-3"]
    metrics = run(script, tmp_path / "teacher", *photos, "--width", "0.25", "--num_train_epochs", "3")
    assert metrics["eval_accuracy"] == 1.0
    teacher = ["--teacher_name", str(tmp_path / "teacher"), "--loss", "mse_ce"]
    student = ["--width", "0.125", "--image_size", "24", "--sparsity", "0.5"]
    metrics = run(script, tmp_path / "student", *photos, *teacher, *student, "--num_train_epochs", "10")
    assert metrics["eval_sparsity"] == pytest.approx(0.5, abs=0.01)
    assert metrics["eval_accuracy"] == 1.0
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "student")
    assert sparsity(prunable_weights(model, set())) == metrics["eval_sparsity"]
    assert model.config.id2label == {0: "cat", 1: "dog"}


def test_digits_and_a_teacher_with_other_labels(script, tmp_path):
    metrics = run(script, tmp_path / "digits", "--width", "0.125", "--max_steps", "2", "--test_fraction", "0.02")
    assert 0 <= metrics["eval_accuracy"] <= 1
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "digits")
    assert torch.numel(model.classifier[1].bias) == 10
    model.config.id2label = {number: f"digit {number}" for number in range(10)}
    model.config.save_pretrained(tmp_path / "digits")
    with pytest.raises(SystemExit, match="are not those of digits"):
        run(script, tmp_path / "student", "--teacher_name", str(tmp_path / "digits"))
