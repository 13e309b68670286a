"""Trainings on mixed pictures: what teacher and student see, and what is learnt from labels."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

from hf_compress.data import load_data
from hf_compress.data.images import preprocess
from hf_compress.losses.criterion import DistillationCriterion
from hf_compress.losses.layer_maps import Answer
from hf_compress.models.load import LoadedModel
from hf_compress.sections.base import TrainingConfig
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import DistillSection, LossConfig
from hf_compress.steps.feature_distillation.training import distil_features
from hf_compress.tasks.classification import CLASSIFICATION
from hf_compress.tasks.features import FEATURES
from hf_compress.training.context import Context
from hf_compress.training.fitting import train

SPLITS = {"train": "train[:20]", "validation": "train[300:312]", "test": "train[400:412]"}
OF_STUDENT = ViTImageProcessor(size={"height": 16, "width": 16})
OF_TEACHER = ViTImageProcessor(size={"height": 24, "width": 24}, image_mean=[0.1] * 3, image_std=[0.3] * 3)
MIXED = {"mixup": 0.8, "cutmix": 1.0}


def vit(size):
    torch.manual_seed(size)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=size, patch_size=8, num_labels=10)).eval()


def context(folder):
    data = load_data(DataSection(path="digits", splits=SPLITS, **MIXED), 0)
    return Context(data.augmented("none", OF_STUDENT, OF_TEACHER), OF_STUDENT, None, 0, folder, log=lambda line: None)


@pytest.mark.parametrize("losses", [[{"loss": "kl_ce"}], [{"loss": "mse_ce"}, {"loss": "dist"}, {"loss": "ce"}]])
def test_teacher_and_student_see_the_same_mix_each_in_its_own_size_and_normalisation(tmp_path, monkeypatch, losses):
    """Everything that both models are given in two epochs; validation images are shown as they are."""
    given, seen = context(tmp_path), {"student": [], "teacher": [], "validation": []}
    forward = ViTForImageClassification.forward

    def recorded(self, pixel_values, **kwargs):
        role = "teacher" if pixel_values.shape[-1] == 24 else "student" if self.training else "validation"
        seen[role] += pixel_values
        return forward(self, pixel_values, **kwargs)

    monkeypatch.setattr(ViTForImageClassification, "forward", recorded)
    config = DistillSection(losses=losses, epochs=2, batch_size=10)
    train(vit(16), given, config, LoadedModel(vit(24), OF_TEACHER, "teacher"))
    shown = [given.data.train.in_epoch(epoch)[index]["view"] for epoch in range(2) for index in range(20)]
    expected = {own.numpy().tobytes(): other for own, other in pairs(shown)}
    assert len(expected) == len(seen["student"]) == len(seen["teacher"]) == 40
    for own, other in zip(seen["student"], seen["teacher"], strict=True):
        assert torch.equal(expected.pop(own.numpy().tobytes()), other)
    plain = [picture["view"] for picture in given.data.train.without_augmentation()]
    assert not {own.numpy().tobytes() for own, _ in pairs(plain)} & {own.numpy().tobytes() for own in seen["student"]}
    assert torch.equal(
        torch.stack(seen["validation"][:12]), preprocess(OF_STUDENT, [item["view"] for item in given.data.validation])
    )


def test_backbones_see_the_same_mix(tmp_path, monkeypatch):
    given, seen = replace(context(tmp_path), task=FEATURES, teacher=backbone(24, OF_TEACHER)), {16: [], 24: []}
    forward = ViTModel.forward

    def recorded(self, pixel_values, **kwargs):
        seen[pixel_values.shape[-1]].append(pixel_values.clone())
        return forward(self, pixel_values, **kwargs)

    student = backbone(16, OF_STUDENT).model
    monkeypatch.setattr(ViTModel, "forward", recorded)
    distil_features(student, given, TrainingConfig(epochs=1, batch_size=20))
    shown = [given.data.train.in_epoch(0)[index]["view"] for index in range(20)]
    expected = {own.numpy().tobytes(): other for own, other in pairs(shown)}
    students, teachers = (next(batch for batch in seen[size] if len(batch) == 20) for size in (16, 24))
    for own, other in zip(students, teachers, strict=True):
        assert torch.equal(expected.pop(own.numpy().tobytes()), other)


def backbone(size, processor):
    config = vit(size).config
    return LoadedModel(ViTModel(config).eval(), processor, "backbone")


def pairs(views):
    return zip(preprocess(OF_STUDENT, views), preprocess(OF_TEACHER, views), strict=True)


LOGITS = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0], [0.3, 0.2, -2.0]], dtype=np.float32)
LABELS, PARTNERS, SHARES = [1, 2, -100], [0, -100, -100], [0.7, 0.4, 0.9]
BATCH = {
    "labels": torch.tensor(LABELS),
    "partner_labels": torch.tensor(PARTNERS),
    "shares": torch.tensor(SHARES),
}
LOG_P = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
CROSS_ENTROPIES = [-0.7 * LOG_P[0, 1] - 0.3 * LOG_P[0, 0], -0.4 * LOG_P[1, 2], 0.0]


def loss_of(batch, count=3, **options):
    student, teacher = (Answer({"logits": torch.tensor(values[:count])}) for values in (LOGITS, LOGITS[::-1].copy()))
    return DistillationCriterion(LossConfig(**options), CLASSIFICATION.compare)(student, teacher, batch).item()


def test_cross_entropy_of_a_mix_is_that_of_both_labels_by_their_shares():
    """A missing label leaves its part out; an image without any is not counted."""
    expected = sum(CROSS_ENTROPIES) / 2
    assert loss_of(BATCH, loss="ce") == pytest.approx(expected, rel=1e-5)
    for distance in ("mse", "kl"):
        alone = loss_of({}, loss=distance)
        both = loss_of(BATCH, loss=f"{distance}_ce", ce_weight=0.5)
        assert both == pytest.approx(alone + 0.5 * expected, rel=1e-5)
        assert loss_of(BATCH, loss=distance) == alone


def test_fine_tuning_mixes_labels_likewise():
    first = {name: tensor[:2] for name, tensor in BATCH.items()}
    output = SimpleNamespace(logits=torch.tensor(LOGITS[:2]))
    assert CLASSIFICATION.loss(output, first).item() == pytest.approx(sum(CROSS_ENTROPIES) / 2, rel=1e-5)
    whole = {"labels": torch.tensor([1, 2]), "partner_labels": torch.tensor([0, 0]), "shares": torch.ones(2)}
    plain = CLASSIFICATION.loss(output, {"labels": torch.tensor([1, 2])}).item()
    assert CLASSIFICATION.loss(output, whole).item() == pytest.approx(plain, rel=1e-5)


def test_a_model_is_fine_tuned_on_mixed_pictures(tmp_path):
    model = vit(16)
    before = model.classifier.weight.clone()
    train(model, context(tmp_path), TrainingConfig(epochs=1, batch_size=10))
    assert not torch.equal(before, model.classifier.weight)
