"""The script beside a deployed file repeats the report's accuracy, without torch and without this package."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from hf_compress import Recipe, compress
from hf_compress.data.loading import load_data
from hf_compress.sections.data import DataSection

SPLITS = {"train": "train[:300]", "validation": "train[300:340]", "test": "train[340:460]"}
DATA = {"path": "digits", "splits": SPLITS}
BLOCKED = ("torch", "torchvision", "transformers", "hf_compress", "wrapt")
ALONE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({BLOCKED!r}))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a float and an int8 file, and a folder of its test images, one subfolder a class."""
    folder = tmp_path_factory.mktemp("device")
    recipe = Recipe.from_dict(
        {
            "data": DATA,
            "student": {"model": "resnet18", "width": 0.125, "image_size": 24},
            "steps": [{"finetune": {"epochs": 2, "learning_rate": 3e-3}}],
            "measure": {"repeats": 3, "batch_size": 2},
            "deploy": ["onnx", {"to": "onnx", "int8": True}],
        }
    )
    made = compress(recipe, folder / "run", log=lambda line: None)
    test = load_data(DataSection(**DATA), seed=0).test
    for number, item in enumerate(test[index] for index in range(len(test))):
        place = folder / "images" / str(item["label"]) / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(item["view"].permute(1, 2, 0).numpy()).save(place)
    return made, sorted((folder / "images").rglob("*.png"))


def said(command, images):
    """Return the labels that a command prints for images."""
    result = subprocess.run([*command, *map(str, images)], capture_output=True, text=True, check=True)
    return [line.split("\t")[1] for line in result.stdout.splitlines()]


def accuracy(labels, images):
    return sum(label == Path(image).parent.name for label, image in zip(labels, images, strict=True)) / len(images)


@pytest.mark.parametrize("which", [0, 1], ids=["float32", "int8"])
def test_a_script_alone_repeats_the_accuracy_of_the_report_to_the_last_image(run, which):
    made, images = run
    row = made.report["deployed"][which]
    labels = said([sys.executable, "-c", ALONE, str(made.folder / row["script"])], images)
    assert accuracy(labels, images) == pytest.approx(row["quality"]["accuracy"], abs=1e-9)
    assert len(set(labels)) > 5


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
