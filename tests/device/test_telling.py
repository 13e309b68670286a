"""What is said of a picture by models of each kind, and how far two agree."""

import json

import numpy as np
import pytest
from PIL import Image

from hf_compress.device.model import DeviceModel
from hf_compress.device.tables import predictions_table
from hf_compress.device.telling import TELLING
from hf_compress.device.using import benchmark, pictures_in, predictions
from hf_compress.ground.errors import UsageError

CLASSES, PIXELS, OBJECTS = "image-classification", "image-segmentation", "object-detection"
DEPTH = "depth-estimation"
SURE, UNSURE = [9.0, -9.0], [-9.0, -9.0]


def model(task, labels=("cat", "dog"), name="m", **outputs):
    """A model that says the same of every picture."""
    said = {key: np.array([value], np.float32) for key, value in outputs.items()}
    return DeviceModel(name, task, list(labels), lambda picture: picture[None], lambda pixel_values: said)


@pytest.fixture
def images(tmp_path):
    for name in ("a/x.png", "b/x.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        Image.new("RGB", (40, 20)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


HALVES = model(PIXELS, logits=[[[5, 5, 5, 0, 0, 0]], [[0, 0, 0, 5, 5, 5]]])


def test_pixels_are_shares_and_masks_that_keep_their_folders_apart(images, tmp_path):
    rows = predictions(HALVES, pictures_in([images]), maps=tmp_path / "masks")
    half = [{"label": "cat", "share": 0.5}, {"label": "dog", "share": 0.5}]
    assert rows == [{"image": str(images / name), "pixels": half} for name in ("a/x.png", "b/x.png")]
    assert "a/x.png  cat 50.0%  dog 50.0%" in predictions_table(rows)
    for name in ("a/x.png", "b/x.png"):
        mask = np.asarray(Image.open(tmp_path / "masks" / f"{name}.classes.png"))
        assert mask.shape == (20, 40) and (mask[:, :20] == 0).all() and (mask[:, 20:] == 1).all()


def test_objects_are_boxes_in_pixels(images):
    detector = model(OBJECTS, logits=[SURE, UNSURE], pred_boxes=[[0.5, 0.5, 0.5, 0.5], [0, 0, 0, 0]])
    rows = predictions(detector, pictures_in([images / "a"]))
    (found,) = rows[0]["objects"]
    assert (found["label"], found["box"]) == ("cat", [10, 5, 30, 15])
    assert found["score"] == pytest.approx(1 / (1 + np.exp(-9)))
    json.dumps(rows)
    assert predictions_table(rows).split()[1:] == ["cat", "0.9999", "10.0", "5.0", "30.0", "15.0"]
    nothing = model(OBJECTS, logits=[UNSURE], pred_boxes=[[0.5, 0.5, 0.5, 0.5]])
    assert predictions_table(predictions(nothing, pictures_in([images / "a"]))).split()[1:] == ["nothing"]


def test_lines_of_a_table_may_have_any_number_of_cells():
    found = {"label": "a dog", "score": 0.5, "box": [1, 2, 3, 4]}
    rows = [{"image": "empty.png", "objects": []}, {"image": "x.png", "objects": [found, found]}]
    assert predictions_table(rows).splitlines() == [
        "empty.png  nothing",
        *["x.png      a dog    0.5000  1.0  2.0  3.0  4.0"] * 2,
    ]
    shares = [{"image": name, "pixels": [{"label": "cat", "share": 1 / n}] * n} for n, name in enumerate("abc", 1)]
    assert predictions_table(shares).splitlines()[1] == "b  cat 50.0%   cat 50.0%"


@pytest.mark.parametrize("maps_of", [CLASSES, OBJECTS])
def test_only_what_speaks_of_pixels_has_maps(maps_of, images, tmp_path):
    having = "only models for image-segmentation and depth-estimation have maps"
    with pytest.raises(UsageError, match=f"'m' is for {maps_of}: {having}"):
        predictions(model(maps_of, logits=[1, 2]), pictures_in([images]), maps=tmp_path / "maps")


def test_maps_do_not_go_into_a_file(images):
    with pytest.raises(UsageError, match=r"x\.png' is no folder: name one for the maps"):
        predictions(HALVES, pictures_in([images]), maps=images / "a" / "x.png")


def test_depths_are_their_range_and_a_map_of_sixteen_bits(images, tmp_path):
    slope = model(DEPTH, [], predicted_depth=[[2.0, 4.0], [2.0, 4.0]])
    rows = predictions(slope, pictures_in([images / "a"]), maps=tmp_path / "maps")
    assert rows == [{"image": str(images / "a/x.png"), "depth": {"smallest": 2, "largest": 4}}]
    assert predictions_table(rows).endswith("x.png  2 to 4")
    written = np.asarray(Image.open(tmp_path / "maps" / "x.png.depths.png"))
    assert written.shape == (20, 40) and written.dtype == np.uint16
    assert (written[:, 0] == 0).all() and (written[:, -1] == 65535).all()
    assert written[0, 20] == round(65535 * (20.5 / 20 - 0.5))  # the middle of its pixel, in the map's


@pytest.mark.parametrize(
    ("found", "first", "agreement"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1),
        ([10, 7, 4, 1], [1, 2, 3, 4], 1),  # scale and shift do not count, not even nearer for farther
        ([4, 3, 3, 4], [1, 2, 3, 4], 1 / 4),  # tells nothing: all are the mean, 2.5, of which one is a quarter off 3
        ([1, 2, 3, 0], [1, 2, 3, 0], 1),  # what is too far away does not count
        ([0, 0, 0, 0], [0, 0, 0, 0], 0),
    ],
)
def test_depths_agree_without_scale_and_shift(found, first, agreement):
    found, first = (np.array([each], np.float32) for each in (found, first))
    assert TELLING[DEPTH].agreement(found, first, np.array([])) == pytest.approx(agreement)


def test_classes_in_another_order_are_the_same_classes(images):
    turned = model(PIXELS, ["dog", "cat"], logits=[[[0, 0, 0, 5, 5, 5]], [[5, 5, 5, 0, 0, 0]]])
    other = model(PIXELS, ["dog", "owl"], logits=[[[0, 0, 0, 0, 0, 5]], [[5, 5, 5, 5, 5, 0]]])
    rows = benchmark([HALVES, turned, other], pictures_in([images]), repeats=1)
    assert [row["agreement"] for row in rows] == [1, 1, pytest.approx(1 / 6, abs=0.05)]
    assert "accuracy" not in rows[0]


def boxes(*found):
    """Objects as an answer holds them: class, left, top, right, bottom."""
    return np.array([[0.9, *each] for each in found], float).reshape(-1, 6)


CAT, NEAR, FAR = (0, 0, 0, 10, 10), (0, 0, 0, 10, 20), (0, 0, 0, 10, 21)


@pytest.mark.parametrize(
    ("found", "first", "agreement"),
    [
        (boxes(CAT), boxes(CAT), 1),
        (boxes(NEAR), boxes(CAT), 1),  # half of the union
        (boxes(FAR), boxes(CAT), 0),
        (boxes((1, 0, 0, 10, 10)), boxes(CAT), 0),  # another class
        (boxes(CAT, CAT), boxes(CAT), 2 / 3),  # an object is found once
        (boxes(NEAR, CAT), boxes(CAT, NEAR), 1),  # each with the box that is nearest
        (boxes(), boxes(CAT), 0),
        (boxes(), boxes(), 1),
    ],
)
def test_objects_agree_by_class_and_overlap(found, first, agreement):
    assert TELLING[OBJECTS].agreement(found, first, np.array([0, 1])) == pytest.approx(agreement)


def test_models_for_several_tasks_are_not_compared(images):
    detector = model(OBJECTS, name="d", logits=[SURE], pred_boxes=[[0.5] * 4])
    with pytest.raises(UsageError, match="'m' is for image-segmentation, 'd' for object-detection: compare models"):
        benchmark([HALVES, detector], pictures_in([images]))
