"""mIoU and pixel accuracy, against numbers by hand and torchmetrics."""

import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from hf_compress.measure.intervals import interval
from hf_compress.measure.segments import (
    by_image_of_pixels,
    confusions,
    named_classes,
    overlap_by_class,
    quality_of_pixels,
)


def logits_of(named, classes):
    return torch.nn.functional.one_hot(torch.tensor(named), classes).movedim(-1, 1).float()


def test_by_hand():
    logits = logits_of([[[0, 0], [1, 1]], [[0, 1], [1, 0]]], 3)
    labels = torch.tensor([[[0, 1], [1, 1]], [[0, -100], [0, -100]]])
    counts = confusions(logits, labels)
    assert counts.tolist() == [[[1, 0, 0], [1, 2, 0], [0, 0, 0]], [[1, 1, 0], [0, 0, 0], [0, 0, 0]]]
    assert overlap_by_class(counts) == [2 / 4, 2 / 4, None]
    assert quality_of_pixels(counts) == pytest.approx({"mean_iou": 0.5, "pixel_accuracy": 4 / 6})
    by_image = by_image_of_pixels(counts)
    assert by_image["pixel_accuracy"].tolist() == pytest.approx(
        [4 / 6 + 2 * (3 - 8 / 3) / 6, 4 / 6 + 2 * (1 - 4 / 3) / 6]
    )
    assert by_image["mean_iou"].tolist() == pytest.approx([0.5 + 1 / 8, 0.5 - 1 / 8])


def test_a_class_that_does_not_occur_is_not_judged_by_stray_pixels():
    counts = confusions(logits_of([[[0, 0], [0, 2]]], 3), torch.tensor([[[0, 0], [0, 0]]]))
    assert overlap_by_class(counts) == [3 / 4, None, None]
    assert quality_of_pixels(counts) == {"mean_iou": 0.75, "pixel_accuracy": 0.75}


def test_as_torchmetrics():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, 6, 7, generator=generator)
    labels = torch.randint(0, 4, (5, 24, 28), generator=generator)
    labels[:, :3] = -100
    named = torch.nn.functional.interpolate(logits, (24, 28), mode="bilinear").argmax(1)
    assert torch.equal(named_classes(logits, (24, 28)), named.to(torch.uint8))
    counts = confusions(logits, labels)
    by_class = MulticlassJaccardIndex(4, average="none", ignore_index=-100)(named, labels)
    accuracy = MulticlassAccuracy(4, average="micro", ignore_index=-100)(named, labels)
    assert overlap_by_class(counts) == pytest.approx(by_class.tolist())
    found = quality_of_pixels(counts)
    assert found == pytest.approx({"mean_iou": by_class.mean().item(), "pixel_accuracy": accuracy.item()})


def test_intervals_are_those_of_drawn_images():
    """The numbers of the images, resampled, vary as the metric does when it is computed anew from drawn images."""
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 30, (60, 3, 3), generator=generator) + torch.diag(torch.tensor([90, 60, 30]))
    by_image = by_image_of_pixels(counts)["mean_iou"]
    drawn = torch.randint(0, 60, (400, 60), generator=generator)
    exact = torch.tensor([quality_of_pixels(counts[each])["mean_iou"] for each in drawn])
    told = interval([0.0] * 60, by_image)
    assert told["low"] == pytest.approx(exact.quantile(0.025).item(), abs=0.003)
    assert told["high"] == pytest.approx(exact.quantile(0.975).item(), abs=0.003)


def test_where_no_pixel_counts_nothing_is_said():
    counts = torch.zeros(2, 3, 3, dtype=torch.int64)
    assert quality_of_pixels(counts) == {} and overlap_by_class(counts) == [None] * 3
