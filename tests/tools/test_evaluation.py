"""A model on images that it was not trained on: all of them, or their test split, and said so."""

import json

import datasets
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from hf_compress import save
from hf_compress.cli import app
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.students import build_registered
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.tools.evaluation import evaluate_folder, load_with_data
from hf_compress.tools.sensitivity import sensitivity

NAMES = ["cat", "dog"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    built = build_registered("resnet18", NAMES, width=0.125, image_size=16)
    save(built.model, folder, built.processor)
    return str(folder)


def photos(folder, **splits):
    """Write a number of images of each class for each split; `_` is no split."""
    shade = 0
    for split, count in splits.items():
        for name in NAMES:
            place = folder / ("" if split == "_" else split) / name
            place.mkdir(parents=True)
            for _ in range(count):
                Image.new("RGB", (8, 8), (shade % 256, 9, shade // 256)).save(place / f"{shade}.png")
                shade += 1
    return str(folder)


LAYOUTS = {  # images a class -> images that are evaluated, and where they are from, without and with --split test
    "only test": ({"test": 6}, (12, "split test"), None),
    "only validation": ({"validation": 6}, (12, "split validation"), None),
    "no splits": ({"_": 30}, (60, "all images"), (6, "10% of split train")),
    "train alone": ({"train": 30}, (60, "all images"), (6, "10% of split train")),
    "train and test": ({"train": 10, "test": 6}, (12, "split test"), (12, "split test")),
    "train and validation": ({"train": 10, "validation": 6}, (12, "split validation"), (12, "split validation")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_test_split_is_evaluated_or_everything(model, tmp_path, layout):
    splits, expected, divided = LAYOUTS[layout]
    folder = photos(tmp_path / "photos", **splits)
    result = evaluate_folder(model, folder)
    assert (result["split"]["images"], result["split"]["from"]) == expected
    assert result["split"]["name"] == "test"
    assert sum(result["split"]["images_by_class"].values()) == expected[0]
    assert result["left_out"] == result["leaks"] == result["conflicting_labels"] == []
    if divided is None:
        with pytest.raises(UsageError, match="no split 'train'"):
            evaluate_folder(model, folder, "test")
    else:
        split = evaluate_folder(model, folder, "test")["split"]
        assert (split["images"], split["from"]) == divided


def test_the_command_says_how_many_images_from_where_and_what_was_not_used(model, tmp_path):
    folder = photos(tmp_path / "photos", _=20)
    (tmp_path / "photos" / "dog" / "broken.png").write_bytes(b"no picture")
    result = CliRunner().invoke(app, ["evaluate", model, "--data", folder, "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["split"]["images"], found["split"]["from"]) == (40, "all images")
    assert found["split"]["corrupt_images_skipped"] == 1
    assert found["left_out"] == []


def parquet(folder, **splits):
    folder.mkdir()
    shade = 0
    for split, labels in splits.items():
        pictures = [Image.new("L", (8, 8), shade + number) for number in range(len(labels))]
        shade += len(labels)
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
        rows = datasets.Dataset.from_dict({"image": pictures, "label": labels}, features=features)
        rows.to_parquet(folder / f"{split}.parquet")
    return str(folder)


def test_a_test_split_without_labels_gives_way_to_the_labelled_one(model, tmp_path):
    folder = parquet(tmp_path / "data", train=[0, 1] * 10, validation=[0, 1, 1, 0], test=[-1] * 5)
    result = evaluate_folder(model, folder)
    assert result["split"]["from"] == "split validation (split test has no labels)"
    assert (result["split"]["images"], result["split"]["unlabelled_images"]) == (4, 0)
    assert result["left_out"] == [{"reason": "split 'test' has no labels", "count": 5, "example": "test"}]
    assert "accuracy" in result["quality"]


def test_images_without_label_are_counted(model, tmp_path):
    result = evaluate_folder(model, parquet(tmp_path / "data", test=[0, 1, -1, -1, 1]))
    assert (result["split"]["images"], result["split"]["unlabelled_images"]) == (5, 2)


def test_other_uses_of_a_test_set_find_their_images_in_it(model, tmp_path):
    """Export calibrates on training images, sensitivity measures on validation images."""
    loaded, data = load_with_data(CLASSIFICATION, model, photos(tmp_path / "photos", test=6))
    assert [len(part) for part in data.splits.values()] == [12, 12, 12]
    assert data.train.labels == data.test.labels == [0] * 6 + [1] * 6
    data = data.aligned(["dog", "cat"])
    assert data.train.labels == data.validation.labels == data.test.labels == [1] * 6 + [0] * 6
    assert list(data.facts["splits"]) == ["test"]
    assert loaded.label_names == NAMES
    measured = sensitivity(model, tmp_path / "out", data=str(tmp_path / "photos"), granularity="weight", ratios=[0.5])
    assert (tmp_path / "out" / "sensitivity.csv").is_file()
    assert all(round(entry.value * 12) == pytest.approx(entry.value * 12) for entry in measured)


def test_pictures_without_labels_are_not_called_others(model, tmp_path):
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"{number}.png")
    with pytest.raises(RunError, match=r"has no labels, by which a model with .* docs/data\.md"):
        evaluate_folder(model, str(tmp_path))


def test_other_labels_are_refused(model, tmp_path):
    folder = photos(tmp_path / "photos", test=3)
    (tmp_path / "photos" / "test" / "dog").rename(tmp_path / "photos" / "test" / "owl")
    with pytest.raises(RunError, match="are not those of"):
        evaluate_folder(model, folder)
