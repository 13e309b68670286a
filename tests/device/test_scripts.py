"""The script beside a deployed file repeats the report's accuracy, without torch and without this package."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_compress
from tests.without_torch import said_alone


def said(script, images):
    """Return the labels that a script prints for images."""
    return [label for _, label, _ in said_alone(script, images)]


def accuracy(labels, images):
    return sum(label == Path(image).parent.name for label, image in zip(labels, images, strict=True)) / len(images)


@pytest.mark.parametrize("which", [0, 1], ids=["float32", "int8"])
def test_a_script_alone_repeats_the_accuracy_of_the_report_to_the_last_image(run, which):
    made, images = run
    row = made.report["deployed"][which]
    labels = said(made.folder / row["script"], images)
    assert accuracy(labels, images) == pytest.approx(row["quality"]["accuracy"], abs=1e-9)
    assert len(set(labels)) > 5


def test_what_the_card_says_to_type_says_what_is_on_a_picture(run):
    made, images = run
    (block,) = re.findall(r"```bash\n(.*?)```", (made.folder / "README.md").read_text(), re.DOTALL)
    packages, command = block.splitlines()
    assert packages == "pip install numpy pillow onnxruntime"
    python, script, photo = command.split()
    done = subprocess.run([sys.executable, script, str(images[0])], capture_output=True, text=True, cwd=made.folder)
    assert (python, photo) == ("python", "photo.jpg")
    assert re.fullmatch(r".*\t\d\t[01]\.\d{4}\n", done.stdout)


def test_a_script_of_litert_alone_repeats_the_accuracy_too(run, tmp_path):
    pytest.importorskip("litert_torch", reason="`make test-litert` has an environment for it")
    made, images = run
    for row in hf_compress.export(made.folder, "litert", int8=True, output=tmp_path):
        labels = said(tmp_path / row["script"], images)
        assert accuracy(labels, images) == pytest.approx(row["quality"]["accuracy"], abs=1e-9)
        assert abs(row["quality"]["accuracy"] - made.report["rows"][-1]["quality"]["accuracy"]) < 0.05


def test_the_script_is_readable_python_of_numpy_pillow_and_the_runtime(run):
    made, _ = run
    text = (made.folder / "deploy" / "predict_onnx_int8.py").read_text()
    assert text.startswith('"""Say what is on pictures, by model.int8.onnx: python predict_onnx_int8.py IMAGE ...')
    imported = {
        line.split()[1].partition(".")[0]
        for line in text.splitlines()
        if line.lstrip().startswith(("import ", "from "))
    }
    assert imported == {"io", "json", "sys", "pathlib", "numpy", "PIL", "onnxruntime"}
