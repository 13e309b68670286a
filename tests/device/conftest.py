"""A run with deployed files, and its test images as a folder."""

import pytest
from PIL import Image

from hf_compress import Recipe, compress
from hf_compress.data.loading import load_data
from hf_compress.sections.data import DataSection

SPLITS = {"train": "train[:300]", "validation": "train[300:340]", "test": "train[340:460]"}
DATA = {"path": "digits", "splits": SPLITS}


@pytest.fixture(scope="package")
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
