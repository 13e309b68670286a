"""Answers by class, calibration and layers, against numbers by hand and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from torch import nn

from hf_compress.measure.detail import BINS, by_class, reliability
from hf_compress.measure.layers import layer_changes


def test_answers_are_counted_by_class():
    answers = torch.tensor([0, 1, 1, 1, 2, 0, 2])
    labels = torch.tensor([0, 0, 0, 1, 2, 2, -100])
    logits = nn.functional.one_hot(answers, 4).float()
    assert by_class(logits, labels) == {
        "images": [3, 1, 2, 0],
        "correct": [1, 1, 1, 0],
        "confused": [[0, 1, 2], [2, 0, 1]],
    }


def test_calibration_error_by_hand():
    """Two images 0.8 sure, one of them right; two 0.6 sure, both right: half of 0.3 and half of 0.4."""
    confidence = torch.tensor([0.8, 0.8, 0.6, 0.6])
    logits = torch.stack([confidence.log(), (1 - confidence).log()], dim=1)
    found = reliability(logits, torch.tensor([0, 1, 0, 0]))
    assert found["expected_calibration_error"] == pytest.approx(0.35)
    assert found["bins"] == [[0.6, 1.0, 2], [0.8, 0.5, 2]]


def test_bins_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 5, generator=generator)
    labels = torch.randint(5, (500,), generator=generator)
    found = reliability(logits, labels)
    confidence, answers = logits.double().softmax(dim=1).max(dim=1)
    accuracy, mean = calibration_curve((answers == labels).numpy(), confidence.numpy(), n_bins=BINS)
    np.testing.assert_allclose([b[0] for b in found["bins"]], mean, atol=1e-4)
    np.testing.assert_allclose([b[1] for b in found["bins"]], accuracy, atol=1e-4)
    assert sum(b[2] for b in found["bins"]) == 500


def test_layers_before_and_after():
    before = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Linear(8, 4))
    after = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Identity(), nn.Linear(6, 4))
    with torch.no_grad():
        after[0].weight[:3] = 0
    assert layer_changes(before, after) == {
        "0": {"width": [8, 6], "sparsity": [0.0, 0.5]},
        "2": {"width": [4, None], "sparsity": [0.0, None]},
        "3": {"width": [None, 4], "sparsity": [None, 0.0]},
    }
