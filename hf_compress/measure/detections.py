"""What detectors find in pictures, and COCO's mean average precision of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_compress.data.boxes import PADDING, UNKNOWN

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BaseImageProcessor

MOST = 100  # detections of a picture that count, as in COCO
CONFIDENT = 0.4  # a teacher's detections of this score, or a higher one, are taught
NOTHING = -1.0  # the score of a row without a detection


def detections(processor: BaseImageProcessor, logits: Tensor, pred_boxes: Tensor) -> Tensor:
    """Return what a detector's own image processor makes of its outputs, the best first.

    Args:
        processor: has `post_process_object_detection`.
        logits: (images, queries, classes).
        pred_boxes: (images, queries, 4), centre, width and height as shares of the picture's.

    Returns:
        Float32 (images, 100, 6): score, class, and left, top, right, bottom as shares; the score is -1 where there is
        no further detection.
    """
    import torch
    from transformers.modeling_outputs import ModelOutput

    output = ModelOutput(logits=logits.float(), pred_boxes=pred_boxes.float())
    rows = torch.full((len(logits), MOST, 6), NOTHING)
    for row, found in zip(rows, processor.post_process_object_detection(output, threshold=0.0), strict=True):
        scores, order = found["scores"].sort(descending=True, stable=True)
        order = order[:MOST]
        columns = [scores[:MOST, None], found["labels"][order, None], found["boxes"][order]]
        row[: len(order)] = torch.cat(columns, dim=1)
    return rows


def best_of_queries(said: dict[str, Tensor]) -> Tensor:
    """Return the surest class of every query in the form of `detections`, (images, queries, 6), in their own order.

    Args:
        said: `logits` (images, queries, classes), of sigmoids, or of a softmax with `no_object`, the logit beside
            them; and `pred_boxes`.
    """
    import torch
    from torchvision.ops import box_convert

    logits, no_object = said["logits"], said.get("no_object")
    if no_object is None:
        chances = logits.sigmoid()
    else:
        chances = torch.cat([logits, no_object], dim=-1).softmax(dim=-1)[..., :-1]
    scores, classes = chances.max(dim=-1, keepdim=True)
    return torch.cat([scores, classes.to(scores.dtype), box_convert(said["pred_boxes"], "cxcywh", "xyxy")], dim=-1)


def as_objects(found: Tensor) -> Tensor:
    """Return confident detections as objects, see `data.boxes.object_rows`.

    Args:
        found: see `detections`; of these the ones with a score of 0.4 or more.
    """
    import torch
    from torchvision.ops import box_convert

    rows = torch.cat(
        [found[..., 1:2], torch.zeros_like(found[..., :1]), box_convert(found[..., 2:], "xyxy", "cxcywh")], dim=-1
    )
    return rows.masked_fill(found[..., :1] < CONFIDENT, PADDING)


def mean_average_precision(found: Tensor, targets: Tensor, by_class: bool = False) -> dict[str, Tensor]:
    """Return COCO's mean average precision, as `torchmetrics` computes it with faster-coco-eval.

    Args:
        found: see `detections`.
        targets: (images, most objects, 6): class, whether it is a crowd, and centre, width and height as shares;
            rows of -100 are no objects, and pictures with a class of -1, of which nothing is known, do not count.

    Returns:
        `map` (IoU 0.50 to 0.95) and `map_50`; by class also `map_per_class` and `classes`. Values are -1 where no
        image has an object.
    """
    from torchmetrics.detection import MeanAveragePrecision
    from torchvision.ops import box_convert

    metric = MeanAveragePrecision(class_metrics=by_class, backend="faster_coco_eval")
    metric.warn_on_many_detections = False
    for rows, objects in zip(found.float().cpu(), targets.float().cpu(), strict=True):
        if (objects[:, 0] == UNKNOWN).any():
            continue
        rows, objects = rows[rows[:, 0] >= 0], objects[objects[:, 0] >= 0]
        metric.update(
            [{"scores": rows[:, 0], "labels": rows[:, 1].long(), "boxes": rows[:, 2:]}],
            [
                {
                    "labels": objects[:, 0].long(),
                    "iscrowd": objects[:, 1].long(),
                    "boxes": box_convert(objects[:, 2:], "cxcywh", "xyxy"),
                }
            ],
        )
    return metric.compute()


def precision_by_class(found: dict[str, Tensor]) -> list[float | None]:
    """Return the average precision of each class up to the last that occurs; None for one of which there is no object.

    Args:
        found: what `mean_average_precision` returns by class.
    """
    classes, values = found["classes"].reshape(-1).tolist(), found["map_per_class"].reshape(-1).tolist()
    occurring = {number: value for number, value in zip(classes, values, strict=True) if value >= 0}
    return [occurring.get(number) for number in range(max(occurring, default=-1) + 1)]
