"""Objects of pictures: columns of data sets, COCO's JSON files and Pascal VOC's folders give the same."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import DetrImageProcessor

from hf_compress.data import load_data
from hf_compress.data.box_reader import BoxReader
from hf_compress.data.boxes import PADDING, UNKNOWN, box_column_of, make_boxes, object_rows, read_boxes
from hf_compress.data.coco import find_coco, load_coco
from hf_compress.data.folders import FolderError, scan
from hf_compress.data.images import IGNORED_LABEL
from hf_compress.data.voc import find_voc, load_voc
from hf_compress.ground.errors import UsageError
from hf_compress.measure.detections import mean_average_precision
from hf_compress.sections.data import DataSection

SHARED = Path(__file__).parents[3] / "shared" / "data"
SECTION = DataSection(path="somewhere")
TWO = {"bbox": [[2, 3, 10, 20], [0, 0, 40, 30]], "category": [1, 0]}
NONE = {"bbox": [], "category": []}


def rows(objects, category, as_objects=False):
    inner = {"bbox": datasets.List(datasets.Value("float32")), "category": category}
    if as_objects:
        feature = datasets.List(inner)
        objects = [[dict(zip(row, each, strict=True)) for each in zip(*row.values(), strict=True)] for row in objects]
    else:
        feature = {name: datasets.List(kind) for name, kind in inner.items()}
    features = datasets.Features({"image": datasets.Image(), "objects": feature})
    pictures = [Image.new("RGB", (40, 30)) for _ in objects]
    return datasets.Dataset.from_dict({"image": pictures, "objects": objects}, features=features)


def read(**splits):
    raw = datasets.DatasetDict(splits)
    return read_boxes(raw, box_column_of(raw, SECTION), "image")


@pytest.mark.parametrize("as_objects", [False, True])
def test_columns_of_lists_and_lists_of_objects_are_read_alike(as_objects):
    names = datasets.ClassLabel(names=["cell", "plate"])
    found, classes, named = read(train=rows([TWO, NONE], names, as_objects))
    assert (classes, named) == (["cell", "plate"], True)
    assert found[0].places.tolist() == TWO["bbox"] and found[0].kinds.tolist() == [1, 0]
    assert not found[0].crowd.any() and len(found[1]) == 0


def test_texts_become_classes_and_numbers_stay_numbers():
    texts = {"bbox": TWO["bbox"], "category": ["plate", "cell"]}
    found, names, named = read(train=rows([texts], datasets.Value("string")))
    assert (names, named, found[0].kinds.tolist()) == (["cell", "plate"], True, [1, 0])
    found, names, named = read(train=rows([TWO], datasets.Value("int64")))
    assert (names, named, found[0].kinds.tolist()) == (["0", "1"], False, [1, 0])


def test_classes_of_another_split_are_matched_by_name():
    first, other = (datasets.ClassLabel(names=names) for names in (["cell", "plate"], ["plate", "cell"]))
    found, names, _ = read(train=rows([TWO], first), test=rows([TWO], other))
    assert names == ["cell", "plate"]
    assert [boxes.kinds.tolist() for boxes in found] == [[1, 0], [0, 1]]
    with pytest.raises(UsageError, match="split 'test' names the class 'dish'"):
        read(train=rows([TWO], first), test=rows([TWO], datasets.ClassLabel(names=["dish", "cell"])))


def test_objects_without_extent_are_left_out_and_a_picture_without_list_is_not_labelled(caplog):
    flat = {"bbox": [[1, 1, 0, 5], [1, 1, 5, 5]], "category": [0, 1]}
    found, *_ = read(train=rows([flat, {"bbox": None, "category": None}], datasets.Value("int64")))
    assert found[0].kinds.tolist() == [1] and found[1] == IGNORED_LABEL
    assert "left out 1 objects" in caplog.text


def test_corners_are_refused():
    corners = {"bbox": [[20, 15, 38, 29]], "category": [0]}
    with pytest.raises(UsageError, match=r"3 of 3 boxes end outside .* may be corners"):
        read(train=rows([corners] * 3, datasets.Value("int64")))


def test_shares_in_place_of_pixels_are_refused():
    shares = {"bbox": [[0.4, 0.3, 0.2, 0.25], [0.1, 0.1, 0.9, 0.9]], "category": [0, 1]}
    with pytest.raises(UsageError, match=r"no box is larger than a pixel; .* multiply them by its width and height"):
        read(train=rows([shares, NONE], datasets.Value("int64")))


def columns(objects, **kinds):
    """Rows whose objects have these lists."""
    features = {"image": datasets.Image(), "objects": {name: datasets.List(kind) for name, kind in kinds.items()}}
    pictures = [Image.new("RGB", (40, 30)) for _ in objects]
    return datasets.Dataset.from_dict({"image": pictures, "objects": objects}, features=datasets.Features(features))


INTEGERS, NUMBERS = datasets.Value("int64"), datasets.List(datasets.Value("float32"))


def test_a_list_beside_boxes_and_categories_may_be_missing():
    known = TWO | {"area": None, "iscrowd": None}
    nothing = {"bbox": [None, [1, 2, 3, 4]], "category": [0, 1], "area": [1, 2], "iscrowd": [0, 0]}
    kinds = {"bbox": NUMBERS, "category": INTEGERS, "area": NUMBERS.feature, "iscrowd": INTEGERS}
    assert read(train=columns([nothing], **kinds))[0][0].kinds.tolist() == [1]
    found, *_ = read(train=columns([known], bbox=NUMBERS, category=INTEGERS, area=NUMBERS.feature, iscrowd=INTEGERS))
    assert found[0].kinds.tolist() == [1, 0] and not found[0].crowd.any()


@pytest.mark.parametrize(
    ("objects", "kinds", "says"),
    [
        ({"bbox": [[1, 2, 3, 4, 5]], "category": [0]}, {}, "1 boxes and 1 categories"),
        ({"bbox": [[1, 2, 3, 4]], "category": [0, 1]}, {}, "1 boxes and 2 categories"),
        ({"bbox": [[1, 2, 3, 4]], "category": [0], "iscrowd": [0, 1]}, {"iscrowd": INTEGERS}, "1 boxes"),
        ({"bbox": [[1, 2, 3, 4]], "category": [0], "iscrowd": []}, {"iscrowd": INTEGERS}, "1 boxes"),
        ({"bbox": [{"x": 1, "y": 2}], "category": [0]}, {"bbox": {"x": INTEGERS, "y": INTEGERS}}, "1 boxes"),
        ({"bbox": [[1, 2, 3, 4]], "category": [0.5]}, {"category": datasets.Value("float64")}, "category 0.5"),
    ],
)
def test_objects_in_another_form_are_one_sentence(objects, kinds, says):
    raw = columns([objects], **({"bbox": NUMBERS, "category": INTEGERS} | kinds))
    with pytest.raises(UsageError, match=rf"column 'objects' cannot be read: .*{says}"):
        read(train=raw)


def test_whole_numbers_may_be_written_as_floats():
    found, names, _ = read(train=columns([TWO], bbox=NUMBERS, category=datasets.Value("float64")))
    assert (names, found[0].kinds.tolist()) == (["0", "1"], [1, 0])


def test_pictures_that_nobody_looked_at_count_neither_way():
    """A detection on a picture without boxes is wrong; on one of which nothing is known it is neither."""
    items = [{"view": torch.zeros(3, 30, 40, dtype=torch.uint8), "label": label} for label in make_labels()]
    targets = object_rows(items, DetrImageProcessor(size={"height": 30, "width": 40}))
    assert targets[:, 0, 0].tolist() == [0, PADDING, UNKNOWN]
    box = torch.tensor([[0.9, 0, 0.25, 0.2, 0.5, 0.8]])
    found = torch.stack([box] * 3)
    found[1, 0, 0], found[2, 0, 0] = 0.95, 0.99
    measured = [mean_average_precision(found[part], targets[part])["map_50"].item() for part in ([0], [0, 2], [0, 1])]
    assert measured == pytest.approx([1, 1, 0.5])


def make_labels():
    known = make_boxes([[10, 6, 10, 18]], [0], size=(30, 40))
    return [known.parts(), make_boxes([], [], size=(30, 40)).parts(), IGNORED_LABEL]


def test_a_column_that_holds_no_objects_is_refused():
    raw = datasets.DatasetDict(train=rows([TWO], datasets.Value("int64")).add_column("label", [0]))
    assert box_column_of(raw, SECTION) == "objects"
    with pytest.raises(UsageError, match=r"column 'label' holds .* lists 'bbox'"):
        box_column_of(raw, DataSection(path="somewhere", label_column="label"))


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path)


def coco(path, names, images):
    content = {"images": [], "annotations": [], "categories": [{"id": 7 + i, "name": n} for i, n in enumerate(names)]}
    for number, (name, objects) in enumerate(images.items()):
        content["images"].append({"id": number, "file_name": name})
        content["annotations"] += [
            {"image_id": number, "category_id": 7 + kind, "bbox": box, "area": 1, "iscrowd": crowd}
            for box, kind, crowd in objects
        ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def load(folder):
    found = scan(folder)
    raw, left_out = load_coco(found, find_coco(found), SECTION)
    return raw, {entry.reason: entry.count for entry in left_out}


def test_cocos_own_folders_are_read(tmp_path):
    """Pictures of two splits share names; captions are no objects, and identities are not contiguous."""
    for split in ("train2017", "val2017"):
        for name in ("a.jpg", "b.jpg"):
            picture(tmp_path / split / name)
        coco(
            tmp_path / "annotations" / f"instances_{split}.json",
            ["cell", "plate"],
            {"b.jpg": [([2, 3, 10, 20], 1, 0), ([0, 0, 40, 30], 0, 1)], "a.jpg": [], "c.jpg": []},
        )
    (tmp_path / "annotations" / "captions_train2017.json").write_text(json.dumps({"images": [], "annotations": []}))
    raw, left_out = load(tmp_path)
    assert list(raw) == ["train", "validation"]
    assert [
        Path(row["path"]).parts[-2:]
        for row in raw["validation"].cast_column("image", datasets.Image(decode=False))["image"]
    ] == [
        ("val2017", "a.jpg"),
        ("val2017", "b.jpg"),
    ]
    found, names, _ = read_boxes(raw, "objects", "image")
    assert names == ["cell", "plate"] and len(found[0]) == 0
    assert found[1].places.tolist() == TWO["bbox"] and found[1].kinds.tolist() == [1, 0]
    assert found[1].crowd.tolist() == [False, True]
    assert left_out["pictures that 'annotations/instances_val2017.json' names and that are not in the folder"] == 1


def test_a_file_beside_the_pictures_of_each_split_is_read(tmp_path):
    for split in ("train", "valid"):
        picture(tmp_path / split / "a.jpg")
        coco(tmp_path / split / "_annotations.coco.json", ["cell"], {"a.jpg": [([1, 2, 3, 4], 0, 0)]})
    raw, _ = load(tmp_path)
    assert {split: len(part) for split, part in raw.items()} == {"train": 1, "validation": 1}


def test_coco_files_that_say_nothing_are_refused(tmp_path):
    picture(tmp_path / "images" / "a.jpg")
    coco(tmp_path / "train.json", ["cell"], {"b.jpg": []})
    with pytest.raises(FolderError, match=r"none of the 1 pictures that 'train.json' names"):
        load(tmp_path)
    coco(tmp_path / "train.json", ["cell"], {"a.jpg": [([1, 2, 3, 4], 3, 0)]})
    with pytest.raises(FolderError, match=r"'train.json' is not written as COCO's files are: KeyError 10"):
        load(tmp_path)


def test_pictures_may_have_names_without_an_ending(tmp_path):
    picture(tmp_path / "0001.png")
    (tmp_path / "0001.png").rename(tmp_path / "0001")
    coco(tmp_path / "train.json", ["cell"], {"0001": [([1, 2, 3, 4], 0, 0)]})
    assert len(load(tmp_path)[0]["train"]) == 1


def test_the_hubs_own_file_of_objects_is_read(tmp_path):
    lines = []
    for number in range(30):
        Image.new("RGB", (40, 30), (number, 0, 0)).save(tmp_path / f"{number}.png")
        objects = {"bbox": [[1, 2, 3 + number, 4]], "category": [number % 2]}
        lines.append(json.dumps({"file_name": f"{number}.png", "objects": objects}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    data = load_data(DataSection(path=str(tmp_path)), 0, reader=BoxReader())
    assert data.label_names == ["0", "1"] and len(data.train) == 24


def test_texts_of_yolo_are_refused_with_what_to_write(tmp_path):
    for number in range(4):
        picture(tmp_path / "images" / "train" / f"{number}.jpg")
        (tmp_path / "labels" / "train").mkdir(parents=True, exist_ok=True)
        (tmp_path / "labels" / "train" / f"{number}.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(UsageError, match=r"such as 'labels/train/0.txt', .* is not read: write boxes as COCO's JSON"):
        load_data(DataSection(path=str(tmp_path)), 0, reader=BoxReader())


@pytest.mark.parametrize("name", ["boxes.csv", "annotations.json", "a.json"])
def test_what_may_tell_of_objects_and_is_not_read_is_refused(name, tmp_path):
    picture(tmp_path / "a.jpg")
    (tmp_path / name).write_text("{}" if name.endswith("json") else "image,x\n")
    with pytest.raises(UsageError, match="write boxes as COCO's JSON"):
        load_data(DataSection(path=str(tmp_path)), 0, reader=BoxReader())


def test_shares_in_cocos_files_are_refused(tmp_path):
    picture(tmp_path / "train" / "a.jpg")
    coco(tmp_path / "train" / "_annotations.coco.json", ["cell"], {"a.jpg": [([0.1, 0.2, 0.3, 0.4], 0, 0)]})
    with pytest.raises(UsageError, match="no box is larger than a pixel"):
        load_data(DataSection(path=str(tmp_path)), 0, reader=BoxReader())


def voc(path, name, objects):
    boxes = "".join(
        f"<object><name>{kind}</name><difficult>{hard}</difficult><bndbox><xmin>{a}</xmin><ymin>{b}</ymin>"
        f"<xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for kind, (a, b, c, d), hard in objects
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation><filename>{name}</filename>{boxes}</annotation>")


def test_a_folder_of_pascal_voc_is_read(tmp_path):
    """The first pixel is number 1, and the last one belongs to the box."""
    for name in ("a", "b", "c"):
        picture(tmp_path / "JPEGImages" / f"{name}.jpg")
        voc(
            tmp_path / "Annotations" / f"{name}.xml",
            f"{name}.jpg",
            [("plate", (3, 4, 12, 23), 0), ("cell", (1, 1, 40, 30), 1)],
        )
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("b  1\n")
    folder = scan(tmp_path)
    raw, left_out = load_voc(folder, find_voc(folder))
    assert {split: len(part) for split, part in raw.items()} == {"train": 1, "validation": 1}
    found, names, _ = read_boxes(raw, "objects", "image")
    assert names == ["cell", "plate"]
    assert found[1].places.tolist() == TWO["bbox"] and found[1].kinds.tolist() == [1, 0]
    assert found[1].crowd.tolist() == [False, True]
    reasons = {entry.reason: entry.count for entry in left_out}
    assert reasons["files of objects that no list of ImageSets/Main names"] == 1


def test_voc_files_without_lists_belong_to_the_split_of_their_folder(tmp_path):
    for split in ("train", "test"):
        picture(tmp_path / split / "a.jpg")
        voc(tmp_path / split / "a.xml", "elsewhere.png", [("cell", (1, 1, 4, 4), 0)])
    folder = scan(tmp_path)
    raw, _ = load_voc(folder, find_voc(folder))
    assert {split: len(part) for split, part in raw.items()} == {"train": 1, "test": 1}
    voc(tmp_path / "train" / "a.xml", "a.jpg", [("cell", (1, "", 4, 4), 0)])
    with pytest.raises(FolderError, match=r"'train/a.xml' has an object 'cell' whose box lacks"):
        load_voc(folder, find_voc(folder))


@pytest.mark.skipif(not SHARED.exists(), reason="needs the data sets beside the project")
def test_real_boxes_of_blood_cells_are_read():
    raw = datasets.load_dataset(str(SHARED / "bccd"))
    found, names, named = read_boxes(raw, box_column_of(raw, SECTION), "image")
    assert (names, named) == (["RBC", "WBC", "Platelets"], True)
    counts = np.bincount(np.concatenate([boxes.kinds for boxes in found]))
    assert counts.tolist() == [4153, 372, 361]


@pytest.mark.parametrize(
    ("place", "kind"), [("bbox", "categories"), ("boxes", "labels"), ("bbox", "class"), ("bbox", "category_id")]
)
def test_lists_may_have_any_usual_name(place, kind):
    found, names, _ = read(train=rows([TWO], datasets.Value("int64")).map(lambda row: renamed(row, place, kind)))
    assert names == ["0", "1"] and found[0].kinds.tolist() == TWO["category"]
    assert found[0].places.tolist() == TWO["bbox"]


def renamed(row, place, kind):
    objects = row["objects"]
    return row | {"objects": {place: objects["bbox"], kind: objects["category"]}}


def test_objects_that_nobody_finds_are_told(tmp_path, caplog):
    two = rows([TWO] * 4, datasets.Value("int64"))
    two.rename_column("objects", "found").map(lambda row: {"found": {"where": row["found"]["bbox"]}}).to_parquet(
        tmp_path / "train.parquet"
    )
    section = DataSection(path=str(tmp_path))
    assert BoxReader().read(BoxReader().open(section), "image", section).labels is None
    assert "is it one of 'found'? name it in 'data.label_column'" in caplog.text
