"""Masks: what is stored is what is learnt, in folders and columns; what cannot be is said."""

import io
import json
import shutil

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from shapes import NAMES, PROCESSOR, draw_folder, drawn

from hf_compress.data import load_data
from hf_compress.data.images import IGNORED_LABEL
from hf_compress.data.local import Source
from hf_compress.data.mask_sets import MaskReader, class_names
from hf_compress.data.masks import AnsweredMask, decode_mask, masks_shown
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.sections.data import DataSection


def read(path, seed=0, **options):
    return load_data(DataSection(path=str(path), **options), seed, reader=MaskReader())


def stored(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **options)
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("shapes"), train=10, val=3, test=4)


def test_folders_of_images_and_masks_by_split(root):
    data = read(root)
    assert data.label_names == NAMES and data.named
    assert [len(images) for images in data.splits.values()] == [10, 3, 4]
    generator = np.random.default_rng(0)
    wanted = [drawn(generator) for _ in range(10)]
    for number in range(10):
        item = data.train[sorted(range(10), key=str).index(number)]
        assert np.array_equal(item["view"].permute(1, 2, 0), wanted[number][0])
        assert np.array_equal(item["label"]["mask"], wanted[number][1])
    assert data.facts["splits"]["test"]["images_by_class"] == {"ground": 4, "red": 4, "blue": 4}
    assert data.facts["left_out"] == []


def test_splits_may_lie_below_the_folders_and_pictures_without_a_mask_are_unlabelled(root, tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "all" / kind).mkdir(parents=True)
        for split in ("train", "test"):
            (root / split / kind).rename(tmp_path / "all" / kind / split)
    (tmp_path / "all" / "masks" / "train" / "3.png").unlink()
    (tmp_path / "all" / "images" / "test" / "1.png").unlink()
    data = read(tmp_path / "all")
    assert (len(data.train) + len(data.validation), len(data.unlabelled), len(data.test)) == (9, 1, 3)
    assert data.label_names == ["0", "1", "2"] and not data.named
    (left,) = data.facts["left_out"]
    assert (left["count"], left["example"]) == (1, "masks/test/1.png")
    for kind in ("images", "masks"):
        for split in ("train", "test"):
            (tmp_path / "all" / kind / split).rename(root / split / kind)


def test_folders_of_masks_without_one_of_images_are_refused(root, tmp_path):
    shutil.copytree(root / "train", tmp_path / "voc")
    for old, new in (("images", "JPEGImages"), ("masks", "SegmentationClass")):
        (tmp_path / "voc" / old).rename(tmp_path / "voc" / new)
    assert sum(map(len, read(tmp_path / "voc").splits.values())) >= 9
    (tmp_path / "voc" / "JPEGImages").rename(tmp_path / "voc" / "shots")
    with pytest.raises(UsageError, match=r"seems to be a mask, but no folder is called 'images': put pictures into"):
        read(tmp_path / "voc")


def test_the_innermost_folder_tells_what_a_picture_is(root, tmp_path):
    shutil.copytree(root / "train", tmp_path / "photos")
    assert sum(map(len, read(tmp_path).splits.values())) >= 9


def test_folders_in_folders_may_have_the_same_names(root, tmp_path):
    """Face masks: `images/mask/1.jpg` is a picture, `masks/mask/1.png` its mask."""
    for kind in ("images", "masks"):
        shutil.copytree(root / "train" / kind, tmp_path / kind / "mask")
    assert sum(map(len, read(tmp_path).splits.values())) >= 9


def test_labels_that_are_no_masks_are_refused(root, tmp_path):
    shutil.copytree(root / "test" / "images", tmp_path / "images" / "train")
    (tmp_path / "labels").mkdir()
    for picture in (tmp_path / "images" / "train").iterdir():
        (tmp_path / "labels" / f"{picture.stem}.txt").write_text("0 0.5 0.5 0.1 0.1")
    with pytest.raises(UsageError, match="is not read: put pictures into 'images/' and masks into 'masks/'"):
        read(tmp_path)


def test_metadata_may_name_masks_beside_pictures_in_any_folder(root, tmp_path):
    shutil.copytree(root / "train" / "masks", tmp_path / "masks")
    lines = []
    for picture in sorted((root / "train" / "images").iterdir()):
        shutil.copy(picture, tmp_path)
        lines.append(json.dumps({"file_name": picture.name, "mask_file_name": f"masks/{picture.name}"}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    data = read(tmp_path)
    assert sum(map(len, data.splits.values())) >= 9 and data.label_names == ["0", "1", "2"]


def test_names_of_classes_that_the_cache_lacks_are_not_known_without_a_connection(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert class_names(DataSection(path="user/data"), Source(datasets.DatasetDict(), commit="0" * 40)) is None


def rows(count=6, **columns):
    generator = np.random.default_rng(1)
    pairs = [drawn(generator) for _ in range(count)]
    made = {name: [Image.fromarray(pair[place]) for pair in pairs] for name, place in columns.items()}
    features = datasets.Features(dict.fromkeys(columns, datasets.Image()))
    return datasets.Dataset.from_dict(made, features=features)


def test_columns_are_found_by_their_names_or_named(tmp_path):
    (tmp_path / "usual").mkdir()
    rows(label=1, image=0).to_parquet(tmp_path / "usual" / "train.parquet")
    (tmp_path / "usual" / "id2label.json").write_text(json.dumps({"0": "a", "1": "b", "2": "c", "255": "void"}))
    data = read(tmp_path / "usual")
    assert data.label_names == ["a", "b", "c"]
    assert data.train[0]["label"]["mask"].unique().tolist() == [0, 1, 2, 255]
    (tmp_path / "other").mkdir()
    rows(front=0, shown=1).to_parquet(tmp_path / "other" / "train.parquet")
    with pytest.raises(UsageError, match="image columns front, shown: name that of the pictures in 'data"):
        read(tmp_path / "other")
    named = read(tmp_path / "other", label_column="shown")
    assert named.train[0]["view"].unique().numel() > 10
    with pytest.raises(UsageError, match="'mask' is no column of images; these are: front, shown"):
        read(tmp_path / "other", label_column="mask")
    (tmp_path / "plain").mkdir()
    rows(image=0).to_parquet(tmp_path / "plain" / "train.parquet")
    assert not read(tmp_path / "plain").labelled


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGB", "I;16"])
def test_a_mask_of_any_mode_has_the_numbers_that_are_stored(mode):
    numbers = np.array([[0, 1], [1, 0]], np.uint8)
    image = Image.fromarray(numbers)
    if mode == "P":
        image.putpalette([9, 9, 9, 7, 7, 7])
    elif mode == "1":
        image = Image.fromarray(numbers.astype(bool))
    elif mode == "I;16":
        image = Image.fromarray(numbers.astype(np.uint16))
    elif mode == "RGB":
        image = image.convert("RGB")
    assert decode_mask(stored(image)).tolist() == numbers.tolist()


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.array([[[1, 2, 3]]], np.uint8)),
        Image.fromarray(np.array([[300]], np.uint16)),
    ],
    ids=["colours", "numbers above 255"],
)
def test_what_is_no_mask_says_so(image):
    with pytest.raises(ValueError, match="a mask holds the number of a class"):
        decode_mask(stored(image))


def test_void_and_what_a_processor_adds_count_for_nothing():
    from transformers import MobileNetV2ImageProcessor

    padded = MobileNetV2ImageProcessor(do_resize=False, crop_size={"height": 6, "width": 6})
    mask = torch.tensor([[0, 255], [2, 1]], dtype=torch.uint8)
    labels = masks_shown([{"label": {"mask": mask}}, {"label": IGNORED_LABEL}], padded)
    assert labels.shape == (2, 6, 6) and labels.dtype == torch.int64
    assert labels[0, 2:4, 2:4].tolist() == [[0, -100], [2, 1]]
    assert (labels[0] != -100).sum() == 3 and (labels[1] == -100).all()


def test_an_answer_lies_in_the_input_and_not_in_the_picture():
    seen = torch.tensor([[0, 1], [2, 255]], dtype=torch.uint8)
    answer = AnsweredMask(seen)
    assert answer.classes == (0, 1, 2)
    labels = masks_shown([{"label": answer.parts()}], PROCESSOR)
    assert labels.shape == (1, 32, 32)
    assert [labels[0, y, x].item() for y in (15, 16) for x in (15, 16)] == [0, 1, 2, -100]
    assert answer.renumbered([2, 0, 1]).seen.tolist() == [[2, 0], [1, 255]]


def test_classes_in_another_order_are_renumbered_in_every_mask(root):
    data = read(root)
    again = data.aligned(["blue", "ground", "red"]).aligned(["red", "blue", "ground"])
    for split in ("train", "test"):
        for own, other in zip(data.splits[split], again.splits[split], strict=True):
            table = torch.tensor([2, 0, 1] + [255] * 253, dtype=torch.uint8)
            assert torch.equal(other["label"]["mask"], table[own["label"]["mask"].long()])


def test_masks_that_cannot_be_used_are_told(tmp_path, caplog):
    root = draw_folder(tmp_path / "faulty", train=8, test=3)
    (root / "train" / "masks" / "2.png").write_bytes(b"no picture")
    Image.new("L", (9, 7)).save(root / "test" / "masks" / "0.png")
    data = read(root)
    assert "2 masks cannot be used, the first is " in caplog.text
    assert len(data.unlabelled) == 1 and data.test.labels.count(IGNORED_LABEL) == 1
    with pytest.raises(RunError, match="has 2 masks that cannot be used"):
        read(root, on_corrupt="stop")
    (root / "id2label.json").write_text(json.dumps({"0": "a", "1": "b"}))
    with pytest.raises(RunError, match=r"has the class 2, but id2label\.json names 2"):
        read(root)
    (root / "id2label.json").write_text(json.dumps(["a", "b"]))
    with pytest.raises(RunError, match="has to number the classes from 0"):
        read(root)


def test_folders_that_do_not_fit_together_are_refused(tmp_path):
    root = draw_folder(tmp_path / "loose", train=2)
    (root / "images").mkdir()
    Image.new("L", (9, 7)).save(root / "images" / "a.png")
    with pytest.raises(UsageError, match=r"'images/a\.png' lies in no split, but others do"):
        read(root)
    (root / "images" / "a.png").rename(root / "train" / "images" / "0.jpg")
    with pytest.raises(UsageError, match=r"'train/images/0\.jpg' and 'train/images/0\.png' have one name"):
        read(root)


@pytest.mark.parametrize(("values", "held"), [((0, 255), "one class"), ((255, 255), "no class")])
def test_masks_of_less_than_two_classes_are_refused(values, held, tmp_path):
    root = draw_folder(tmp_path / "binary", train=8, val=2, test=2)
    for file in root.rglob("masks/*.png"):
        shape = np.array(Image.open(file)) > 0
        Image.fromarray(np.where(shape, *reversed(values)).astype(np.uint8)).save(file)
    (root / "id2label.json").unlink(missing_ok=True)
    with pytest.raises(RunError, match=rf"show {held} beside 255, which means no class: write the numbers of two"):
        read(root)
