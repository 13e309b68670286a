"""A detector's queries are compared in the order in which they are alike."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_compress.ground.queries import in_like_order
from hf_compress.measure.agreement import Agreement
from hf_compress.runtimes.int8.fallback import divergence


def said(images, queries, classes, seed=0):
    random = torch.Generator().manual_seed(seed)
    return {
        "logits": torch.randn(images, queries, classes, generator=random),
        "pred_boxes": torch.rand(images, queries, 4, generator=random),
    }


def reordered(outputs, seed=0):
    random = torch.Generator().manual_seed(seed)
    images, queries = outputs["logits"].shape[:2]
    orders = torch.stack([torch.randperm(queries, generator=random) for _ in range(images)])
    return {name: values[torch.arange(images)[:, None], orders] for name, values in outputs.items()}


@given(images=st.integers(1, 3), queries=st.integers(1, 12), seed=st.integers(0, 99))
def test_queries_in_any_order_and_a_little_off_come_back(images, queries, seed):
    expected = said(images, queries, 3, seed)
    near = {name: values + 1e-3 for name, values in expected.items()}
    found = in_like_order(expected, reordered(near, seed))
    assert all(torch.equal(found[name], near[name]) for name in expected)


def test_a_box_decides_between_queries_with_the_same_logits():
    expected = said(1, 4, 3) | {"logits": torch.zeros(1, 4, 3)}
    found = in_like_order(expected, reordered(expected))
    assert torch.equal(found["pred_boxes"], expected["pred_boxes"])


def test_images_of_a_classifier_stay_where_they_are():
    found = {"logits": torch.tensor([[0.0, 1.0], [1.0, 0.0]])}
    assert in_like_order({"logits": found["logits"].flip(0)}, found) is found


def test_a_file_with_its_queries_in_another_order_agrees():
    expected, agreement = said(2, 10, 3), Agreement()
    agreement.add(expected, reordered(expected))
    assert agreement.within(1e-6)
    assert agreement.row == {"max_difference": {"logits": 0.0, "pred_boxes": 0.0}, "top1_agreement": 1.0}


@pytest.mark.parametrize(("wrong", "agrees"), [(2, True), (3, False)])
def test_of_a_thousand_queries_one_may_be_another(wrong, agrees):
    expected, agreement = said(2, 1000, 3), Agreement()
    found = {name: values.clone() for name, values in expected.items()}
    found["logits"][0, :wrong] += 100
    agreement.add(expected, found)
    assert agreement.within(0.01) == agrees
    assert "queries" in str(agreement)


@pytest.mark.parametrize("name", ["logits", "pred_boxes"])
def test_a_query_that_is_no_number_never_agrees(name):
    expected, agreement = said(1, 2000, 3), Agreement()
    found = {name: values.clone() for name, values in expected.items()}
    found[name][0, 0, 0] = float("nan")
    agreement.add(expected, found)
    assert not agreement.within(float("inf"))


def test_int8_is_judged_whatever_the_order_of_queries():
    expected = said(1, 10, 3)
    images = [np.zeros((1, 3, 2, 2), np.float32)] * 2
    arrays = [[values.numpy() for values in outputs.values()] for outputs in (expected, reordered(expected))]
    error = divergence(list(expected), lambda _: arrays[0], lambda: lambda _: arrays[1], images)
    assert error() == pytest.approx(0.0, abs=1e-12)
