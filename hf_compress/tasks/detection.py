"""Object detection: boxes around objects, each of one class."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from hf_compress.ground.errors import UsageError
from hf_compress.models.students import Checkpoint, register_student
from hf_compress.tasks.base import Metric, Task, register_task
from hf_compress.tasks.looking import looks
from hf_compress.tasks.sheets import COLOURS, FINAL, Colour, Mark, Panel, Sheet, coloured, legend, short

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

    from hf_compress.models.load import LoadedModel
    from hf_compress.tasks.base import Loss

LOSSES = ("mse", "kl", "kl_ce")
"""Of outputs; others compare classes between images, or read one label each. `kl_ce` finds none, and is `kl` here."""

Seen = tuple[int, list[float], str]
"""An object to be drawn: class, corners as shares of the picture, and the score behind its name."""


class Detection(Task):
    """The model gives logits and a box for each of its queries; what it was trained by is a loss of its own."""

    name = "detection"
    auto_class = "AutoModelForObjectDetection"
    pipeline_tag = "object-detection"
    noun = "object detector"
    usage = (
        "    found = processor.post_process_object_detection(model(**inputs), target_sizes=[image.size[::-1]])[0]",
        'for score, label, box in zip(found["scores"], found["labels"], found["boxes"], strict=True):',
        '    print(f"{model.config.id2label[label.item()]}: {score:.1%} in {box.round().tolist()}")',
    )
    deciding = Metric("map", "mAP", hub_name="mAP", full_name="mean average precision (COCO, IoU 0.50 to 0.95)")
    metrics = (deciding, Metric("map_50", "mAP at IoU 0.50", hub_name="mAP@0.50"))

    processor_class = "RTDetrImageProcessor"
    scopes = ("damage", "cost")
    pictured = "Test images with their objects, and what the models find with a score of 0.4 or more"

    def check_recipe(self, recipe):
        super().check_recipe(recipe)
        for key, training in recipe.trainings.items():
            for term in getattr(training, "terms", ()):
                if not term.layers and (term.loss not in LOSSES or term.standardize):
                    raise UsageError(
                        f"'{key}' has loss '{term.loss}', which with 'task: detection' has to be "
                        f"{' or '.join(LOSSES)}, without standardize; to learn from labels, use the step finetune"
                    )

    def load(self, name, **options):
        from hf_compress.models.detectors import load_detector

        return load_detector(name, **options)

    # ---- data

    def read(self, section, seed, to_evaluate=False):
        from hf_compress.data import load_data
        from hf_compress.data.box_reader import BoxReader

        return load_data(section, seed, to_evaluate, BoxReader())

    def targets(self, items, processor):
        from hf_compress.data.boxes import object_rows

        return {"labels": object_rows(items, processor)}

    # ---- outputs, training, distillation

    def forward(self, model, batch):
        """Run a model on a batch, also its own loss: `labels` are objects, see `data.boxes.object_rows`."""
        return model(pixel_values=batch["pixel_values"], labels=_as_dicts(batch["labels"]))

    def outputs(self, output):
        return {name: output[name] for name in ("logits", "pred_boxes")}

    def kept(self, output, batch, processor):
        """Return what the model's image processor finds in its outputs."""
        from hf_compress.measure.detections import detections

        return {"detections": detections(processor, output["logits"], output["pred_boxes"])}

    def answer(self, model, pixel_values):
        """Return what a model says to images: classes and a box for every query.

        Returns:
            `logits` of classes, `pred_boxes`, and `no_object`, the logit of none, where there is one. Of queries that
            the model selects from places of the image: `places`, which ones; `maps`, the rows and columns of the maps
            that these are in; and `enc_logits` and `enc_pred_boxes`, what was said there before.
        """
        import torch

        from hf_compress.ground.choices import Choices

        maps = _maps(_config(model), pixel_values)
        if not maps:
            return _by_class(self.outputs(model(pixel_values=pixel_values)), _config(model).num_labels)
        choices = Choices()
        with choices.recorded():
            said = self._said_and_selected(model, pixel_values)
        sizes = torch.tensor(maps, device=pixel_values.device)
        return said | {"places": choices.made[0], "maps": sizes.expand(len(pixel_values), *sizes.shape)}

    def learn(self, model, batch, teacher):
        """Return a student's answer, at the teacher's places if both select their queries, or its own loss.

        A model that selects its queries orders them by score, so that the same query is another place in every model:
        the student is asked where the teacher was (distillation points that both share: Wang et al., "KD-DETR", CVPR
        2024). Where their queries cannot be the same, the loss is on what the teacher detects.
        """
        from hf_compress.measure.detections import as_objects, best_of_queries

        images, config = batch["pixel_values"], _config(model)
        if said := self._said_there(model, images, teacher):
            return said
        output = model(pixel_values=images, labels=_as_dicts(as_objects(best_of_queries(teacher))))
        said = _by_class(self.outputs(output), config.num_labels)
        return said if _alike(said, teacher) and not _selects(config) else said | {"loss": output.loss}

    def foreseen(self, student, teacher):
        from hf_compress.data.images import example_input, input_size

        mine, theirs = (_maps(each.model.config, example_input(each.processor)) for each in (student, teacher))
        if not mine or not theirs or mine == theirs:
            return None
        size = "{} x {}".format(*input_size(student.processor))
        return (
            "of its teacher, which sees pictures of another size, the student learns the sure boxes alone: with "
            f"{size} pixels for both (teacher.image_size) it learns what the teacher says at each place"
        )

    def _said_and_selected(self, model, pixel_values):
        """Return what a model that selects its queries says at the end, and where it selects them."""
        output = model(pixel_values=pixel_values)
        said = _by_class(self.outputs(output), _config(model).num_labels)
        return said | {"enc_logits": output.enc_topk_logits, "enc_pred_boxes": output.enc_topk_bboxes}

    def _said_there(self, model, images, teacher):
        """Return what a student says at the surest places of its teacher; None where it has no such places."""
        from hf_compress.ground.choices import Choices

        maps, queries = _maps(_config(model), images), getattr(_config(model), "num_queries", 0)
        same = maps and "maps" in teacher and teacher["maps"][0].int().tolist() == maps
        if not same or teacher["places"].shape[1] < queries:
            return None
        with Choices([teacher["places"][:, :queries].long()]).repeated():
            return self._said_and_selected(model, images)

    def loss(self, output, batch):
        """Return the model's own loss; 0 of a deployed file, which has none."""
        loss = output.get("loss")
        return output["logits"].sum() * 0 if loss is None else loss

    def compare(self, loss, student, teacher, batch):
        """Return the loss of the classes of every query, and the distance of its box by how sure the teacher is.

        Boxes are compared as DETR compares them with its targets (Carion et al., 2020, eq. 2 and sec. A.2).
        """
        if "loss" in student:
            return student["loss"]
        queries = student["logits"].shape[1]
        teacher = {name: said[:, :queries] for name, said in teacher.items()}  # places come the surest first
        both = student.keys() & teacher.keys()
        parts = [name.removesuffix("logits") for name in both if name.endswith("logits")]
        return sum(_apart(loss, *(_part(said, part) for said in (student, teacher))) for part in sorted(parts))

    def in_order(self, outputs, order):
        if order is None:
            return outputs
        return outputs | {name: said[..., order] for name, said in outputs.items() if name.endswith("logits")}

    # ---- measuring

    def quality(self, predictions):
        from hf_compress.measure.detections import mean_average_precision

        return self._measured(mean_average_precision(predictions.outputs["detections"], predictions.labels))

    def _measured(self, found):
        return {metric.name: found[metric.name].item() for metric in self.metrics if found[metric.name] >= 0}

    def in_detail(self, predictions):
        """Add `class_ap`, see `precision_by_class`."""
        from hf_compress.measure.detections import mean_average_precision, precision_by_class

        found = mean_average_precision(predictions.outputs["detections"], predictions.labels, by_class=True)
        return {"quality": self._measured(found), "by_image": {}, "class_ap": precision_by_class(found)}

    def examples(self, models, images, by_image, by_teacher):
        from hf_compress.measure.detections import detections

        def say(loaded: LoadedModel, output: Any, truth: Tensor) -> Tensor:
            return detections(loaded.processor, output.logits, output.pred_boxes)[0]

        names, rows = models[FINAL].label_names, []
        looked_at = looks(self, models, images, by_image, by_teacher, say)
        for look in looked_at:
            true, *found = look.said.values()
            rows.append([_true_objects(true), *map(_found_objects, found)])
        classes = Counter(number for row in rows for objects in row for number, *_ in objects)
        colours = coloured([number for number, _ in classes.most_common()], COLOURS[1:])
        panels = [
            [Panel(look.picture, marks=_marks(objects, colours, names), tall=look.tall) for objects in row]
            for look, row in zip(looked_at, rows, strict=True)
        ]
        return Sheet(panels, [], list(looked_at[0].said), legend(colours, names)) if looked_at else None

    def as_targets(self, predictions):
        from torchvision.ops import box_convert

        from hf_compress.data.boxes import PADDING, make_boxes
        from hf_compress.measure.detections import as_objects, best_of_queries

        outputs = predictions.outputs
        found = outputs["detections"] if "detections" in outputs else best_of_queries(outputs)
        objects = [rows[rows[:, 0] != PADDING] for rows in as_objects(found)]
        return [make_boxes(box_convert(rows[:, 2:], "cxcywh", "xywh"), rows[:, 0]) for rows in objects]


def _marks(objects: list[Seen], colours: dict[int, Colour], names: list[str]) -> tuple[Mark, ...]:
    return tuple(Mark(box, colours[number], short(names[number]) + score) for number, box, score in objects)


def _true_objects(rows: Tensor) -> list[Seen]:
    """Return class and corners of objects, see `data.boxes.object_rows`, and nothing that is said of them."""
    from torchvision.ops import box_convert

    rows = rows[rows[:, 0] >= 0]
    corners = box_convert(rows[:, 2:], "cxcywh", "xyxy").tolist()
    return [(number, box, "") for number, box in zip(rows[:, 0].int().tolist(), corners, strict=True)]


def _found_objects(rows: Tensor) -> list[Seen]:
    """Return class, corners and score of confident detections, see `measure.detections`, the surest first."""
    from hf_compress.measure.detections import CONFIDENT

    return [(int(number), box, f" {score:.2f}") for score, number, *box in rows.tolist() if score >= CONFIDENT]


def _as_dicts(rows: Tensor) -> list[dict[str, Tensor]]:
    """Return objects, see `data.boxes.object_rows`, as transformers' detectors take them; crowds teach nothing."""
    wanted = [objects[(objects[:, 0] >= 0) & (objects[:, 1] == 0)] for objects in rows]
    return [{"class_labels": objects[:, 0].long(), "boxes": objects[:, 2:]} for objects in wanted]


def _by_class(outputs: dict[str, Tensor], classes: int) -> dict[str, Tensor]:
    """Return the outputs with the logit of no object, which follows those of the classes, as one of its own."""
    logits = outputs["logits"]
    if logits.shape[-1] == classes:
        return outputs
    return {"logits": logits[..., :classes], "pred_boxes": outputs["pred_boxes"], "no_object": logits[..., classes:]}


def _alike(said: dict[str, Tensor], teacher: dict[str, Tensor]) -> bool:
    return said.keys() == teacher.keys() and all(said[name].shape == teacher[name].shape for name in said)


def _part(said: dict[str, Tensor], part: str) -> dict[str, Tensor]:
    """Return what is said of classes and boxes, at the end or, with the prefix `enc_`, where queries are selected."""
    names = ("logits", "pred_boxes", "no_object")
    return {name: said[part + name] for name in names if part + name in said}


def _apart(loss: Loss, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> Tensor:
    from torchvision.ops import box_convert, generalized_box_iou_loss

    from hf_compress.measure.detections import best_of_queries

    sure = best_of_queries(teacher)[..., 0]
    mine, theirs = (said["pred_boxes"] for said in (student, teacher))
    corners = (box_convert(boxes, "cxcywh", "xyxy") for boxes in (mine, theirs))
    apart = 5 * (mine - theirs).abs().sum(dim=-1) + 2 * generalized_box_iou_loss(*corners)
    classes = 1 if "no_object" in student else student["logits"].shape[-1]
    return classes * loss(_rows(student), _rows(teacher), None) + (sure * apart).sum() / sure.sum()


def _selects(config: Any) -> bool:
    """Return whether a model of a config selects its queries from each image."""
    return bool(getattr(config, "two_stage", False)) or hasattr(config, "learn_initial_query")


def _config(model: Any) -> PretrainedConfig:
    """Return the config of a model, which may be wrapped by `DistributedDataParallel`."""
    return getattr(model, "module", model).config


def _maps(config: Any, pixel_values: Tensor) -> list[list[int]]:
    """Return rows and columns of the maps from which a model selects its queries; none where its config tells none."""
    height, width = pixel_values.shape[-2:]
    strides = getattr(config, "feat_strides", None) or []
    told = _selects(config) and len(strides) == getattr(config, "num_feature_levels", 0)
    exact = not any(height % stride or width % stride for stride in strides)
    return [[height // stride, width // stride] for stride in strides] if told and exact else []


def _rows(outputs: dict[str, Tensor]) -> Tensor:
    """Return the logits of all queries as the losses take them, a softmax a row: of a sigmoid, against 0."""
    import torch

    logits = outputs["logits"]
    if "no_object" in outputs:
        return torch.cat([logits, outputs["no_object"]], dim=-1).flatten(0, 1)
    return torch.stack([logits, torch.zeros_like(logits)], dim=-1).flatten(0, 2)


DETECTION = register_task(Detection())


@register_student(
    "rtdetr_r18",
    "RT-DETR with a ResNet-18 (Zhao et al., 2024)",
    Checkpoint("PekingU/rtdetr_r18vd", 20.2, "apache-2.0"),
    auto_class=Detection.auto_class,
)
def _rtdetr_r18(width: float, **label_options) -> PretrainedConfig:
    """transformers' defaults are those of ResNet-50; a new backbone has batch norms to learn."""
    from transformers import RTDetrConfig, RTDetrResNetConfig

    channels = [max(8, round(number * width / 8) * 8) for number in (64, 128, 256, 512)]
    hidden = max(32, round(256 * width / 32) * 32)  # eight heads, and sines of two axes
    backbone = RTDetrResNetConfig(
        embedding_size=channels[0],
        hidden_sizes=channels,
        depths=[2, 2, 2, 2],
        layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )
    return RTDetrConfig(
        backbone_config=backbone,
        freeze_backbone_batch_norms=False,
        encoder_in_channels=channels[1:],
        encoder_hidden_dim=hidden,
        encoder_ffn_dim=4 * hidden,
        decoder_in_channels=[hidden] * 3,
        d_model=hidden,
        decoder_layers=3,
        decoder_ffn_dim=4 * hidden,
        hidden_expansion=0.5,
        **label_options,
    )
