"""A head that is solved for is the one that scikit-learn finds, in the model's own weights."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from hf_compress.data import load_data
from hf_compress.ground.errors import RunError
from hf_compress.models.students import build_registered
from hf_compress.sections.data import DataSection
from hf_compress.training import probing
from hf_compress.training.context import Context
from hf_compress.training.predicting import evaluate, predict
from hf_compress.training.probing import solve_head

SPLITS = {"train": "train[:200]", "validation": "train[200:300]", "test": "train[300:400]"}


def context_of(data, processor, tmp_path):
    return Context(data, processor, None, 0, tmp_path, log=lambda line: None)


def built(classes):
    torch.manual_seed(0)
    return build_registered("resnet18", classes, width=0.25, image_size=16)


@pytest.mark.parametrize("classes", [10, 2])
def test_the_logits_are_those_of_logistic_regression_on_what_the_body_gives(classes, tmp_path, monkeypatch):
    monkeypatch.setattr(probing, "STRENGTHS", (0.1,))
    data = load_data(DataSection(path="digits", splits=SPLITS, augmentation="light"), seed=0)
    if classes == 2:
        odd = {role: split.with_labels([label % 2 for label in split.labels]) for role, split in data.splits.items()}
        data.train, data.validation, data.test = odd.values()
    data = data.augmented("light", built(["even", "odd"]).processor)
    loaded = built([str(name) for name in range(classes)])
    assert solve_head(loaded.model, context_of(data, loaded.processor, tmp_path)) == 0.1

    pooled, head = {}, loaded.model.classifier[1]
    loaded.model.classifier[1] = nn.Identity()
    for role in ("train", "test"):
        said = predict(loaded.model, loaded.processor, data.splits[role]).outputs["logits"]
        pooled[role] = said.flatten(1).double().numpy()
    loaded.model.classifier[1] = head
    scaler = StandardScaler().fit(pooled["train"])
    expected = LogisticRegression(C=0.1, max_iter=1000).fit(scaler.transform(pooled["train"]), data.train.labels)
    ours = predict(loaded.model, loaded.processor, data.test).outputs["logits"].softmax(1).numpy()
    assert np.allclose(ours, expected.predict_proba(scaler.transform(pooled["test"])), atol=2e-3)
    assert evaluate(loaded.model, loaded.processor, data, "test")["accuracy"] > (0.6 if classes == 10 else 0.7)


def test_the_penalty_is_the_best_on_validation_images(tmp_path, monkeypatch):
    data = load_data(DataSection(path="digits", splits=SPLITS), seed=0)
    loaded = built(data.label_names)
    taken = solve_head(loaded.model, context_of(data, loaded.processor, tmp_path))
    losses = {}
    for strength in probing.STRENGTHS:
        monkeypatch.setattr(probing, "STRENGTHS", (strength,))
        solve_head(loaded.model, context_of(data, loaded.processor, tmp_path))
        logits = predict(loaded.model, loaded.processor, data.validation).outputs["logits"]
        losses[strength] = torch.nn.functional.cross_entropy(logits, torch.tensor(data.validation.labels)).item()
    assert taken == min(losses, key=losses.get)


def test_a_head_of_another_kind_is_told(tmp_path):
    data = load_data(DataSection(path="digits", splits=SPLITS), seed=0)
    loaded = built(data.label_names)
    loaded.model.classifier[1] = nn.Linear(loaded.model.classifier[1].in_features, 10, bias=False)
    with pytest.raises(RunError, match="it is not one linear layer with a bias"):
        solve_head(loaded.model, context_of(data, loaded.processor, tmp_path))
