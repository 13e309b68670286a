"""Semantic segmentation: one class a pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hf_compress.models.students import register_student
from hf_compress.tasks.base import Metric, Task, register_task
from hf_compress.tasks.looking import Look, looks
from hf_compress.tasks.sheets import FINAL, TRUTH, WHITE, Colour, Panel, Sheet, coloured, legend

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

    from hf_compress.models.load import LoadedModel


class Segmentation(Task):
    """The model gives a map of logits, of any size, that belongs to the pixels of its input."""

    name = "segmentation"
    auto_class = "AutoModelForSemanticSegmentation"
    pipeline_tag = "image-segmentation"
    noun = "model for semantic segmentation"
    usage = (
        "    output = model(**inputs)",
        'sizes = [inputs["pixel_values"].shape[-2:]]',
        "(classes,) = processor.post_process_semantic_segmentation(output, target_sizes=sizes)",
        "for index in classes.unique().tolist():",
        '    print(f"{model.config.id2label[index]}: {(classes == index).float().mean():.1%} of the pixels")',
    )
    deciding = Metric("mean_iou", "mIoU", hub_name="Mean IoU", full_name="mean intersection over union")
    metrics = (deciding, Metric("pixel_accuracy", "pixel accuracy", hub_name="Pixel Accuracy"))
    processor_class = "SegformerImageProcessor"
    dense = True
    answers_whole = True
    pictured = "Test images, and the class of every pixel: what is true, and what the models say"

    def load(self, name, **options):
        from hf_compress.models.load import SEGMENTER, load

        return load(name, kind=SEGMENTER, **options)

    def read(self, section, seed, to_evaluate=False):
        from hf_compress.data import load_data
        from hf_compress.data.mask_sets import MaskReader

        return load_data(section, seed, to_evaluate, MaskReader())

    def targets(self, items, processor):
        """Return `labels`, the class of each pixel of the model's input, (batch, height, width), -100 for void."""
        from hf_compress.data.masks import masks_shown

        return {"labels": masks_shown(items, processor)}

    def outputs(self, output):
        return {"logits": output.logits}

    def loss(self, output, batch):
        """Return the cross-entropy, mean over the labelled pixels, with logits interpolated to the pixels."""
        from hf_compress.measure.segments import at_pixels

        return _cross_entropy(at_pixels(output.logits, batch["labels"].shape[-2:]), batch["labels"])

    def compare(self, loss, student, teacher, batch):
        """Compare each place of the student's map with that of the teacher's, which takes its size; so do labels."""
        from torch.nn import functional as F

        mine = student["logits"]
        size = mine.shape[-2:]
        theirs = F.interpolate(teacher["logits"], size, mode="bilinear", align_corners=False, antialias=True)
        labels = batch.get("labels")
        if labels is not None:
            labels = F.interpolate(labels[:, None].float(), size, mode="nearest-exact").long().flatten()
        return loss(_in_rows(mine), _in_rows(theirs), labels)

    def in_order(self, outputs, order):
        from hf_compress.checkpoint.labels import reordered

        return outputs | {"logits": reordered(outputs["logits"], order)}

    def kept(self, output, batch, processor):
        """Keep the counts of pixels by true and named class, see `measure.segments.confusions`."""
        from hf_compress.measure.segments import confusions

        return {"confusion": confusions(output.logits, batch["labels"])}

    def targets_kept(self, labels):
        """Keep how many pixels have a label."""
        return (labels >= 0).flatten(1).sum(dim=1)

    def quality(self, predictions):
        from hf_compress.measure.segments import quality_of_pixels

        return quality_of_pixels(predictions.outputs["confusion"])

    def in_detail(self, predictions):
        """Add `class_iou`, intersection over union of each class, None for one that does not occur."""
        from hf_compress.measure.quality import with_means
        from hf_compress.measure.segments import by_image_of_pixels, overlap_by_class

        counts = predictions.outputs["confusion"]
        return with_means(by_image_of_pixels(counts)) | {"class_iou": overlap_by_class(counts)}

    def examples(self, models, images, by_image, by_teacher):
        from hf_compress.measure.segments import named_classes

        def say(loaded: LoadedModel, output: Any, truth: Tensor) -> Tensor:
            return named_classes(output.logits, truth.shape)[0].long()

        looked_at = looks(self, models, images, by_image, by_teacher, say)
        if not looked_at:
            return None
        colours = _colour_of(looked_at)
        rows = [
            [
                Panel(look.picture, tall=look.tall),
                *(Panel(_painted(map, colours), tall=look.tall, exact=True) for map in look.said.values()),
            ]
            for look in looked_at
        ]
        void = any((look.said.get(TRUTH, look.said[FINAL]) < 0).any() for look in looked_at)
        entries = legend(colours, models[FINAL].label_names) | ({"not labelled": WHITE} if void else {})
        return Sheet(rows, [look.name for look in looked_at], ["image", *looked_at[0].said], entries)

    def as_targets(self, predictions):
        from hf_compress.data.masks import AnsweredMask
        from hf_compress.measure.segments import named_classes

        logits, size = predictions.outputs["logits"], predictions.labels.shape[-2:]
        return [AnsweredMask(seen) for seen in named_classes(logits, size)]


def _colour_of(looked_at: list[Look]) -> dict[int, Colour]:
    """Return the colours of all classes that occur, the most frequent ones first."""
    import torch

    maps = [classes.flatten() for look in looked_at for classes in look.said.values()]
    numbers, counts = torch.cat(maps).unique(return_counts=True)
    frequent = numbers[counts.argsort(descending=True, stable=True)].tolist()
    return coloured([number for number in frequent if number >= 0])


def _painted(classes: Tensor, colours: dict[int, Colour]) -> np.ndarray:
    """Return the colours of classes (height, width), uint8 (height, width, 3); void is white."""
    picture = np.full((*classes.shape, 3), WHITE, np.uint8)
    for number, colour in colours.items():
        picture[(classes == number).numpy()] = colour
    return picture


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the labelled pixels; 0 where there is none."""
    from torch.nn import functional as F

    from hf_compress.data.images import IGNORED_LABEL

    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED_LABEL, reduction="sum")
    return total / (labels != IGNORED_LABEL).sum().clamp(min=1)


def _in_rows(maps: Tensor) -> Tensor:
    """Return maps (batch, classes, height, width) as rows (pixels, classes)."""
    return maps.movedim(1, -1).flatten(0, 2)


@register_student("segformer_b0", "SegFormer-B0 (Xie et al., 2021)", auto_class=Segmentation.auto_class)
def _segformer_b0(width: float, **label_options) -> PretrainedConfig:
    from transformers import SegformerConfig

    heads = [1, 2, 5, 8]
    side = max(8, round(32 * width / 8) * 8)
    return SegformerConfig(
        num_attention_heads=heads,
        hidden_sizes=[side * count for count in heads],
        decoder_hidden_size=8 * side,
        **label_options,
    )


@register_student(
    "deeplabv3_mobilenet_v2",
    "DeepLabV3 on MobileNetV2 (Chen et al., 2017; Sandler et al., 2018)",
    auto_class=Segmentation.auto_class,
)
def _deeplabv3_mobilenet_v2(width: float, **label_options) -> PretrainedConfig:
    from transformers import MobileNetV2Config

    return MobileNetV2Config(
        depth_multiplier=width, output_stride=16, tf_padding=False, layer_norm_eps=1e-5, **label_options
    )


SEGMENTATION = register_task(Segmentation())
