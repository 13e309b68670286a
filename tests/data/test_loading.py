"""Where images come from and how they are divided."""

from collections import Counter

import numpy as np
import pytest
from PIL import Image

from hf_compress.data import load_data
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.sections.data import DataSection


def write(folder, counts, start=0, apart=10):
    for shade, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("L", (8, 8), start + apart * shade + number).save(folder / name / f"{start}-{number}.png")


def load(path, **options):
    return load_data(DataSection(path=str(path), **options), seed=0)


def test_digits_are_scikit_learns():
    data = load("digits")
    assert sum(len(part) for part in data.splits.values()) == 1797
    assert data.label_names == list("0123456789")


def test_one_held_out_split_is_the_test_set_and_validation_comes_from_training(tmp_path):
    write(tmp_path / "train", {"cat": 20, "dog": 20})
    write(tmp_path / "val", {"cat": 3, "dog": 4}, start=100)
    data = load(tmp_path)
    assert [len(part) for part in data.splits.values()] == [36, 4, 7]
    assert data.facts["splits"]["validation"]["from"] == "10% of split train"


def test_thirds_are_stratified_disjoint_and_repeatable(tmp_path):
    write(tmp_path, {"cat": 30, "dog": 60})
    thirds = {"train": 0.34, "validation": 0.33, "test": 0.33}
    first, second = load(tmp_path, splits=thirds), load(tmp_path, splits=thirds)
    paths = {role: [p["path"] for p in part.pictures["image"]] for role, part in first.splits.items()}
    assert paths == {role: [p["path"] for p in part.pictures["image"]] for role, part in second.splits.items()}
    assert len({path for part in paths.values() for path in part}) == 90
    for part in first.splits.values():
        counts = Counter(part.labels)
        assert counts[1] == pytest.approx(2 * counts[0], abs=1)


@pytest.mark.parametrize("splits", [{}, {"train": 0.5, "validation": 0.25, "test": 0.25}])
def test_another_seed_divides_otherwise(splits):
    def divided(seed):
        data = load_data(DataSection(path="digits", splits=splits), seed)
        return {role: part.decoded.fingerprint for role, part in data.splits.items()}

    first, again, second = divided(0), divided(0), divided(1)
    assert first == again
    assert all(first[role] != second[role] for role in first)


def test_thirds_that_do_not_divide_evenly_leave_no_image_out(tmp_path):
    write(tmp_path, {"cat": 20, "dog": 40, "owl": 40}, apart=50)
    data = load(tmp_path, splits={"train": 0.3334, "validation": 0.3333, "test": 0.3333})
    assert [len(part) for part in data.splits.values()] == [34, 33, 33]


def test_named_splits_and_slices(tmp_path):
    data = load("digits", splits={"train": "train[:100]", "validation": "train[100:150]", "test": "train[90%:]"})
    assert [len(part) for part in data.splits.values()] == [100, 50, 180]
    with pytest.raises(UsageError, match="'trian', which is not there; did you mean 'train'"):
        load("digits", splits={"train": "trian"})


def test_a_parquet_folder_and_integer_labels(tmp_path):
    import datasets

    rows = {"image": [Image.new("RGB", (8, 8), (n, 0, 0)) for n in range(40)], "label": [n % 2 for n in range(40)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "train.parquet")
    data = load(tmp_path)
    assert data.label_names == ["0", "1"]
    assert data.aligned(["no", "maybe", "yes"]) is None
    aligned = data.aligned(["no", "yes"])
    assert aligned.label_names == ["no", "yes"]
    assert aligned.facts["splits"]["test"]["images_by_class"] == {"no": 2, "yes": 2}
    assert data.label_names == ["0", "1"]


def test_a_flat_folder_has_no_labels(tmp_path):
    for number in range(20):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    data = load(tmp_path)
    assert not data.labelled
    assert not data.train.labelled


def test_labels_are_aligned_by_name(tmp_path):
    write(tmp_path, {"Ant_Hill": 20, "bee": 20, "cow": 20})
    data = load(tmp_path)
    before = np.array(data.train.labels)
    assert data.aligned(["bee", "cow", "wasp"]) is None
    aligned = data.aligned(["Cow", "ant hill", "Bee"])
    assert aligned.train.labels == np.array([1, 2, 0])[before].tolist()
    assert aligned.label_names == ["Cow", "ant hill", "Bee"]
    counts = aligned.facts["splits"]["train"]["images_by_class"]
    assert counts.keys() == {"Cow", "ant hill", "Bee"} and set(counts.values()) <= {15, 16, 17}
    assert "Ant_Hill" in data.facts["splits"]["train"]["images_by_class"]
    assert data.train.labels == before.tolist()
    assert data.label_names == ["Ant_Hill", "bee", "cow"]


def test_an_empty_class_folder_is_an_error(tmp_path):
    write(tmp_path, {"cat": 20})
    (tmp_path / "dog").mkdir()
    with pytest.raises(UsageError, match="dog' is empty"):
        load(tmp_path)


def test_a_corrupt_image_stops_when_the_recipe_says_so(tmp_path):
    write(tmp_path, {"cat": 20, "dog": 20})
    (tmp_path / "cat" / "0-0.png").write_bytes(b"no picture")
    with pytest.raises(RunError, match="1 corrupt images"):
        load(tmp_path, on_corrupt="stop")
    assert sum(len(part) for part in load(tmp_path).splits.values()) == 39


def test_missing_folders_and_columns_are_named(tmp_path):
    with pytest.raises(UsageError, match=r"no folder '\./nowhere'"):
        load("./nowhere")
    with pytest.raises(UsageError, match="no images"):
        load(tmp_path)
    with pytest.raises(UsageError, match="no column 'colour'"):
        load("digits", label_column="colour")
