"""Distillation losses against numbers computed by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_compress.steps.distillation.config import LOSSES, LossConfig
from hf_compress.steps.distillation.losses import kl, mse

STUDENT = np.array([[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]])
TEACHER = np.array([[2.0, 1.0, 0.0], [0.5, 0.5, 2.0]])
LABELS = np.array([1, 2])


def softmax(logits):
    exponentials = np.exp(logits)
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def ours(name, **options):
    function = LOSSES.get(name).function
    config = LossConfig(loss=name, **options)
    return function(torch.tensor(STUDENT), torch.tensor(TEACHER), torch.tensor(LABELS), config).item()


def test_mse_is_between_softmax_outputs():
    assert ours("mse") == pytest.approx(((softmax(STUDENT) - softmax(TEACHER)) ** 2).mean())


def test_mse_ce_is_the_weighted_sum():
    distance = ((softmax(STUDENT) - softmax(TEACHER)) ** 2).mean()
    cross_entropy = -np.log(softmax(STUDENT)[[0, 1], LABELS]).mean()
    assert ours("mse_ce", mse_weight=3, ce_weight=0.5) == pytest.approx(3 * distance + 0.5 * cross_entropy)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kl_is_batch_mean_times_squared_temperature(temperature):
    student, teacher = softmax(STUDENT / temperature), softmax(TEACHER / temperature)
    expected = (teacher * np.log(teacher / student)).sum(axis=1).mean() * temperature**2
    assert ours("kl", temperature=temperature) == pytest.approx(expected)


def test_only_mse_ce_needs_labels():
    assert [name for name in LOSSES if LOSSES.get(name).needs_labels] == ["mse_ce"]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.floats(-20, 20), min_size=4, max_size=4), min_size=2, max_size=2), st.floats(-5, 5))
def test_a_shift_of_the_logits_changes_nothing_and_no_distance_is_negative(rows, shift):
    first, second = torch.tensor(rows, dtype=torch.float64).view(2, 1, 4)
    config = LossConfig()
    assert mse(first, first + shift, None, config).item() == pytest.approx(0, abs=1e-12)
    assert kl(first, first + shift, None, config).item() == pytest.approx(0, abs=1e-9)
    assert mse(first, second, None, config) >= 0
    assert kl(first, second, None, config) >= -1e-9
