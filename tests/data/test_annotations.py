"""Annotated pictures: what lies in a picture moves with it, is read when it is, and is counted like a class."""

from dataclasses import dataclass, replace

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2
from transformers import MobileNetV2ImageProcessor, ViTImageProcessor

from hf_compress.data import load_data
from hf_compress.data.annotations import Annotation, FoundLabels, Reader
from hf_compress.data.augmentation import RandomShift, build_augmentation
from hf_compress.data.geometry import as_shown, moved
from hf_compress.data.images import IGNORED_LABEL, preprocess
from hf_compress.data.local import Source
from hf_compress.ground.errors import UsageError
from hf_compress.sections.data import DataSection


@dataclass(frozen=True, eq=False)
class Same(Annotation):
    """A mask that is the picture's own first channel."""

    pixels: np.ndarray
    classes: tuple[int, ...]

    def parts(self):
        return {"mask": tv_tensors.Mask(torch.from_numpy(self.pixels)), "number": torch.tensor(7)}

    def renumbered(self, new):
        return replace(self, classes=tuple(new[number] for number in self.classes))


class Pictures(Reader):
    """Twenty pictures; every fifth has no annotation."""

    def open(self, section):
        generator = np.random.default_rng(0)
        self.pixels = [generator.integers(0, 256, (12, 16), dtype=np.uint8) for _ in range(20)]
        pictures = [Image.fromarray(pixels) for pixels in self.pixels]
        features = datasets.Features({"image": datasets.Image()})
        return Source(datasets.DatasetDict({"train": datasets.Dataset.from_dict({"image": pictures}, features)}))

    def image_column(self, rows, section):
        return "image"

    def read(self, source, image_column, section):
        masks = [None if index % 5 == 4 else Same(own, (0, 2)) for index, own in enumerate(self.pixels)]
        labels = np.array([-1 if mask is None else 0 for mask in masks])
        return FoundLabels(labels, ["a", "b", "c"], True, masks)


@pytest.fixture(scope="module")
def data():
    splits = {"train": 0.6, "validation": 0.2, "test": 0.2}
    return load_data(DataSection(path="anywhere", splits=splits, augmentation="light", views=3), 0, reader=Pictures())


def test_annotated_images_are_divided_counted_and_renumbered(data):
    counts = data.facts["splits"]
    assert sum(facts["images"] for facts in counts.values()) == 20
    for role, images in data.splits.items():
        known = sum(isinstance(label, Annotation) for label in images.labels)
        assert counts[role]["images_by_class"] == {"a": known, "c": known}
    assert data.train.labelled and data.unlabelled.labels == [IGNORED_LABEL] * len(data.unlabelled)
    (kept,) = {label.classes for label in data.aligned(["c", "a", "b"]).train.labels}
    assert kept == (1, 0)


def test_a_mask_moves_with_its_picture_the_same_way_in_every_epoch(data):
    shown = data.augmented("light", ViTImageProcessor(size={"height": 8, "width": 8})).train
    for index in range(len(shown)):
        item = shown[index]
        assert torch.equal(item["view"][0], item["label"]["mask"]) and item["label"]["number"] == 7
        assert type(item["view"]) is torch.Tensor
        assert torch.equal(item["view"], shown.in_epoch(3)[index]["view"])
    plain = data.train[0]
    assert torch.equal(plain["view"][0], plain["label"]["mask"])
    assert any(not torch.equal(data.train[i]["view"], shown[i]["view"]) for i in range(len(shown)))


@pytest.mark.parametrize("name", ["light", "standard"])
def test_an_augmentation_of_an_annotated_picture_is_that_of_a_plain_one(name):
    picture = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)
    augment = build_augmentation(name, (16, 16))
    torch.manual_seed(0)
    plain = augment(picture)
    torch.manual_seed(0)
    view, parts = moved(augment, picture, {"mask": tv_tensors.Mask(picture[0])})
    assert torch.equal(view, plain)
    assert parts["mask"].shape == view.shape[1:]


def test_boxes_move_with_a_shift():
    picture = torch.zeros(3, 32, 32, dtype=torch.uint8)
    picture[:, 12:16, 10:20] = 255
    boxes = tv_tensors.BoundingBoxes([[10, 12, 20, 16]], format="XYXY", canvas_size=(32, 32))
    for seed in range(5):
        torch.manual_seed(seed)
        view, parts = moved(v2.Compose([RandomShift(), v2.RandomHorizontalFlip()]), picture, {"boxes": boxes})
        rows, columns = (view[0] > 0).nonzero().unbind(1)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert parts["boxes"].flatten().tolist() == [int(number) for number in found]


@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessor(size={"height": 24, "width": 24}),
        MobileNetV2ImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),
        MobileNetV2ImageProcessor(do_resize=False, crop_size={"height": 24, "width": 24}),
    ],
    ids=["squashed", "cropped", "padded"],
)
def test_a_mask_lies_where_a_processor_puts_its_picture(processor):
    halves = [torch.zeros(12, 16, dtype=torch.uint8), torch.zeros(14, 10, dtype=torch.uint8)]
    halves[0][:, 6:], halves[1][5:] = 200, 200
    shown = as_shown(processor, halves)
    assert shown.shape == (2, 24, 24) and set(shown.unique().tolist()) == {0, 200}
    pixels = preprocess(processor, [half.expand(3, -1, -1) for half in halves])[:, 0]
    low, high = pixels.min(), pixels.max()
    sharp = ((pixels - low) / (high - low) < 0.02) | ((pixels - low) / (high - low) > 0.98)
    assert sharp.float().mean() > 0.8
    assert torch.equal((pixels > (low + high) / 2)[sharp], (shown > 100)[sharp])


def test_a_stream_of_annotated_pictures_is_refused():
    with pytest.raises(UsageError, match="leave it out, the task needs more"):
        load_data(DataSection(path="anywhere", streaming=True), 0, reader=Pictures())
