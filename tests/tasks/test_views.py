"""What a run shows and measures are views: the data itself stays as it was loaded."""

import torch
from transformers import ViTImageProcessor

from hf_compress.data import load_data
from hf_compress.sections.data import DataSection
from hf_compress.tasks.base import Predictions
from hf_compress.tasks.classification import CLASSIFICATION

PROCESSOR = ViTImageProcessor(size={"height": 8, "width": 8})


class Teacher:
    label_names = ("a", "b")


def loaded():
    splits = {"train": "train[:60]", "validation": "train[60:64]", "test": "train[64:68]"}
    return load_data(DataSection(path="digits", splits=splits, augmentation="light"), 0)


def test_augmentation_is_that_of_the_view():
    data = loaded()
    shown = data.augmented("light", PROCESSOR)
    assert shown.train.augment is not None
    assert (data.train.augment, shown.validation.augment, shown.test.augment) == (None, None, None)


def test_the_answers_of_a_teacher_are_labels_of_a_view():
    data = loaded()
    before = list(data.test.labels)

    def predict(teacher, images, whole=False):
        return Predictions({"logits": torch.eye(2)[[0, 1, 1, 0]]}, torch.tensor(images.labels))

    judged = CLASSIFICATION.labelled_by(Teacher, data, predict)
    assert judged.test.labels == judged.validation.labels == [0, 1, 1, 0]
    assert judged.by_teacher and not data.by_teacher
    assert data.test.labels == before
    found = CLASSIFICATION.examiner(judged, "test", Teacher, predict)(Teacher)
    assert found == {"quality": {"teacher_agreement": 1.0}, "by_image": {"teacher_agreement": [1, 1, 1, 1]}}
