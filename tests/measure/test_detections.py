"""What detectors find, and its mean average precision, against values computed by hand."""

import pytest
import torch
from transformers import DetrImageProcessor, RTDetrImageProcessor

from hf_compress.data.boxes import PADDING
from hf_compress.measure.detections import detections, mean_average_precision, precision_by_class


def targets(*pictures, most=3):
    """Return targets of pictures, each a list of (class, crowd, centre x, centre y, width, height)."""
    rows = torch.full((len(pictures), most, 6), PADDING)
    for row, objects in zip(rows, pictures, strict=True):
        row[: len(objects)] = torch.tensor(objects).reshape(-1, 6)
    return rows


def found(*pictures):
    rows = torch.full((len(pictures), 100, 6), -1.0)
    for row, objects in zip(rows, pictures, strict=True):
        row[: len(objects)] = torch.tensor(objects).reshape(-1, 6)
    return rows


LEFT, RIGHT = (0.25, 0.5, 0.5, 1.0), (0.75, 0.5, 0.5, 1.0)  # centre, width, height
LEFT_CORNERS, RIGHT_CORNERS = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


def test_the_mean_over_classes_counts_what_is_not_found():
    wanted = targets([(0, 0, *LEFT), (1, 0, *RIGHT)])
    both = found([(0.9, 0, *LEFT_CORNERS), (0.8, 1, *RIGHT_CORNERS)])
    assert mean_average_precision(both, wanted)["map"] == pytest.approx(1)
    half = found([(0.9, 0, *LEFT_CORNERS), (0.8, 0, *RIGHT_CORNERS)])
    measured = mean_average_precision(half, wanted, by_class=True)
    assert measured["map"] == pytest.approx(0.5) and measured["map_per_class"].tolist() == pytest.approx([1, 0])
    assert precision_by_class(measured) == pytest.approx([1, 0])


def test_a_class_without_an_object_has_no_precision():
    wanted = targets([(1, 0, *LEFT), (3, 0, *RIGHT)])
    several = found([(0.9, 1, *LEFT_CORNERS), (0.8, 2, *LEFT_CORNERS), (0.7, 4, *LEFT_CORNERS)])
    measured = mean_average_precision(several, wanted, by_class=True)
    assert precision_by_class(measured) == [None, pytest.approx(1), None, 0]
    one = mean_average_precision(found([(0.9, 0, *LEFT_CORNERS)]), targets([(0, 0, *LEFT)]), by_class=True)
    assert precision_by_class(one) == pytest.approx([1])
    assert precision_by_class(mean_average_precision(found([]), targets([]), by_class=True)) == []


def test_a_false_box_that_is_surer_halves_the_precision():
    wanted = targets([(0, 0, *LEFT)])
    measured = mean_average_precision(found([(0.9, 0, *RIGHT_CORNERS), (0.8, 0, *LEFT_CORNERS)]), wanted)
    assert measured["map"] == pytest.approx(0.5) and measured["map_50"] == pytest.approx(0.5)


def test_a_box_of_overlap_0_72_counts_up_to_there():
    """IoU 0.72: right at 0.50, 0.55, 0.60, 0.65 and 0.70, five of ten thresholds."""
    measured = mean_average_precision(found([(0.9, 0, 0.0, 0.0, 0.36, 1.0)]), targets([(0, 0, *LEFT)]))
    assert measured["map"] == pytest.approx(0.5) and measured["map_50"] == pytest.approx(1)


def test_a_crowd_is_neither_right_nor_wrong():
    wanted = targets([(0, 0, *LEFT), (0, 1, *RIGHT)])
    boxes = found([(0.95, 0, *RIGHT_CORNERS), (0.9, 0, *LEFT_CORNERS)])
    assert mean_average_precision(boxes, wanted)["map"] == pytest.approx(1)


def test_a_processor_of_sigmoids_tells_every_class_of_a_query():
    logits, boxes = torch.tensor([[[2.0, 1.0], [-3.0, 3.0]]]), torch.tensor([[LEFT, RIGHT]])
    rows = detections(RTDetrImageProcessor(), logits, boxes)
    assert rows.shape == (1, 100, 6) and (rows[0, 2:, 0] == -1).all()
    wanted = [(torch.tensor(3.0).sigmoid(), 1, *RIGHT_CORNERS), (torch.tensor(2.0).sigmoid(), 0, *LEFT_CORNERS)]
    torch.testing.assert_close(rows[0, :2], torch.tensor(wanted))


def test_a_processor_of_softmax_leaves_out_no_object():
    logits, boxes = torch.tensor([[[2.0, 1.0, 5.0], [0.0, 3.0, 0.0]]]), torch.tensor([[LEFT, RIGHT]])
    rows = detections(DetrImageProcessor(), logits, boxes)
    scores = logits[0].softmax(dim=-1)
    wanted = [(scores[1, 1], 1, *RIGHT_CORNERS), (scores[0, 0], 0, *LEFT_CORNERS)]
    torch.testing.assert_close(rows[0, :2], torch.tensor(wanted))
