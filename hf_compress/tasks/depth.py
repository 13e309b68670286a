"""Depth from a single picture: how far away each pixel is, learnt from a teacher's answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.students import register_student
from hf_compress.tasks.base import Metric, Task, register_task
from hf_compress.tasks.looking import looks
from hf_compress.tasks.sheets import Panel, Sheet

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig

    from hf_compress.models.load import LoadedModel

SHADES = {"smallest value": 0.0, "half of the way": 0.5, "largest value": 1.0}


class Depth(Task):
    """The model gives a map of depths, or of their inverses; what the data shows beside its pictures is not looked at.

    A teacher's answers are what is learnt, and what models are measured against, without regard to scale and shift.
    """

    name = "depth"
    auto_class = "AutoModelForDepthEstimation"
    pipeline_tag = "depth-estimation"
    noun = "model for depth estimation"
    usage = ("    depth = model(**inputs).predicted_depth[0]", 'print(f"from {depth.min():.3g} to {depth.max():.3g}")')
    deciding = Metric("abs_rel", "relative error to the teacher's depth", higher_is_better=False)
    metrics = (deciding, Metric("delta_1", "pixels within a quarter of the teacher's depth"))
    classes = False
    trains_teachers = False
    dense = True
    answers_whole = True
    processor_class = "DPTImageProcessor"
    pictured = "Test images, and the depth of every pixel as the teacher and the final model see it, in one scale"

    def check_recipe(self, recipe):
        super().check_recipe(recipe)
        if recipe.teacher is None or any(section.finetune is not None for section in recipe.teachers.values()):
            raise UsageError("'task: depth' learns from a teacher that knows depths: name one, without 'finetune'")
        for step in recipe.build_steps():
            if getattr(step.config, "importance", None) == "taylor":
                raise UsageError(
                    "'importance: taylor' asks how an error grows, and with 'task: depth' a model has none against "
                    "its own answers: take obs"
                )

    def load(self, name, labels=None, **options):
        from transformers import AutoModelForDepthEstimation

        from hf_compress.data.images import refuse_many_sizes
        from hf_compress.models.load import LoadedModel, open_model

        opened = open_model(
            name, AutoModelForDepthEstimation, "is no model for depth: transformers has none of the type", **options
        )
        if getattr(opened.processor, "keep_aspect_ratio", False):  # pictures of a batch have one size
            opened.processor.keep_aspect_ratio = False
        refuse_many_sizes(name, opened.processor)
        return LoadedModel(opened.model, opened.processor, name, opened.commit, bool(opened.missing))

    # ---- data

    def read(self, section, seed, to_evaluate=False):
        from hf_compress.data import load_data
        from hf_compress.data.loading import PlainPictures

        return load_data(section, seed, to_evaluate, PlainPictures())

    def targets(self, items, processor):
        """Return `labels`, the depth of each pixel of the model's input, (batch, height, width); nan without one."""
        import torch

        from hf_compress.data.images import input_size
        from hf_compress.measure.depths import at_size

        size = input_size(processor)
        nothing = torch.full(size, torch.nan)
        known = [item["label"]["seen"] if isinstance(item["label"], dict) else None for item in items]
        return {"labels": torch.stack([nothing if map is None else at_size(map[None], size)[0] for map in known])}

    def require_labels(self, loaded, data):
        raise RunError(
            f"what {loaded.name} says of depths is measured against its teacher, in a run alone: see its report.json"
        )

    # ---- outputs, training, distillation

    def outputs(self, output):
        return {"predicted_depth": output.predicted_depth}

    def loss(self, output, batch):
        from hf_compress.measure.depths import at_size, invariant_distance

        return invariant_distance(at_size(output.predicted_depth, batch["labels"].shape[-2:]), batch["labels"])

    def compare(self, loss, student, teacher, batch):
        """Return the scale- and shift-invariant distance at the student's size, whatever the loss."""
        from hf_compress.measure.depths import at_size, invariant_distance

        mine = student["predicted_depth"]
        return invariant_distance(mine, at_size(teacher["predicted_depth"], mine.shape[-2:]))

    # ---- measuring

    def kept(self, output, batch, processor):
        """Keep the errors of each image, see `measure.depths.depth_errors`."""
        from hf_compress.measure.depths import at_size, depth_errors

        return depth_errors(at_size(output.predicted_depth, batch["labels"].shape[-2:]), batch["labels"])

    def targets_kept(self, labels):
        return labels[:, 0, 0]

    def quality(self, predictions):
        return {name: predictions.outputs[name].mean().item() for name in ("abs_rel", "delta_1")}

    def in_detail(self, predictions):
        from hf_compress.measure.quality import with_means

        return with_means({name: values.numpy() for name, values in predictions.outputs.items()})

    def examples(self, models, images, by_image, by_teacher):
        from matplotlib import colormaps

        from hf_compress.measure.depths import at_size, brought_to

        def say(loaded: LoadedModel, output: Any, truth: Tensor) -> Tensor:
            return brought_to(at_size(output.predicted_depth, truth.shape), truth[None])[0]

        def painted(depths: Tensor, truth: Tensor) -> np.ndarray:
            span = (truth.max() - truth.min()).clamp_min(1e-12)
            return colours(((depths - truth.min()) / span).numpy(), bytes=True)[..., :3]

        colours, rows = colormaps["viridis"], []
        looked_at = looks(self, models, images, by_image, by_teacher, say)
        for look in looked_at:
            true, *_ = maps = look.said.values()
            pictures = [look.picture, *(painted(map, true) for map in maps)]
            rows.append([Panel(picture, tall=look.tall) for picture in pictures])
        entries = {name: tuple(map(int, colours(share, bytes=True)[:3])) for name, share in SHADES.items()}
        names = [look.name for look in looked_at]
        return Sheet(rows, names, ["image", *looked_at[0].said], entries) if looked_at else None

    def as_targets(self, predictions):
        from hf_compress.measure.depths import AnsweredDepth

        return [AnsweredDepth(seen) for seen in predictions.outputs["predicted_depth"]]

    def labelled_by(self, teacher, data, predict):
        return replace(super().labelled_by(teacher, data, predict), label_names=[])

    def judged_by(self, by_teacher):
        return self.deciding

    def examiner(self, data, split, teacher, predict):
        """Measure against what the teacher says."""
        return lambda loaded: self.in_detail(predict(loaded, data.splits[split]))


@register_student("depth_anything_small", "Depth Anything, small (Yang et al., 2024)", auto_class=Depth.auto_class)
def _depth_anything_small(width: float, **label_options) -> PretrainedConfig:
    from transformers import DepthAnythingConfig, Dinov2Config

    def scaled(channels: int) -> int:
        return max(8, round(channels * width / 8) * 8)

    body = Dinov2Config(
        image_size=518,
        hidden_size=6 * scaled(64),
        num_attention_heads=6,
        out_indices=[9, 10, 11, 12],
        apply_layernorm=True,
        reshape_hidden_states=False,
    )
    return DepthAnythingConfig(
        backbone_config=body,
        reassemble_hidden_size=body.hidden_size,
        neck_hidden_sizes=[scaled(channels) for channels in (48, 96, 192, 384)],
        fusion_hidden_size=scaled(64),
        head_hidden_size=scaled(32),
        **label_options,
    )


DEPTH = register_task(Depth())
