"""Errors of depth, by hand, and without scale and shift."""

import pytest
import torch

from hf_compress.measure.depths import at_size, depth_errors, invariant_distance


def test_scale_and_shift_count_for_nothing():
    truth = torch.rand(3, 5, 6) + 1
    found = depth_errors(4 * truth - 2, truth)
    assert found["abs_rel"].tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    assert found["delta_1"].tolist() == [1, 1, 1]
    assert invariant_distance(truth, 7 * truth + 3) < 1e-5 < invariant_distance(truth, truth.flip(1))


def test_errors_by_hand():
    truth = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    said = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])  # fitted: 2 and 3
    found = depth_errors(said, truth)
    assert found["abs_rel"].item() == pytest.approx((1 / 1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert found["delta_1"].item() == 0
    assert depth_errors(torch.zeros(1, 2, 2), truth)["abs_rel"].item() == pytest.approx(
        (1.5 + 0.5 / 2 + 0.5 / 3 + 1.5 / 4) / 4
    )


def test_the_distance_by_hand():
    first, second = torch.tensor([[[0.0, 1.0, 5.0]]]), torch.tensor([[[0.0, 2.0, 4.0]]])
    # medians 1 and 2; mean distances from them 5/3 and 4/3
    wanted = (abs(-1 / (5 / 3) + 2 / (4 / 3)) + 0 + abs(4 / (5 / 3) - 2 / (4 / 3))) / 3
    assert invariant_distance(first, second).item() == pytest.approx(wanted)


def test_maps_take_another_size():
    assert at_size(torch.ones(2, 4, 6), (8, 3)).shape == (2, 8, 3)
    with torch.no_grad():
        assert torch.allclose(at_size(torch.full((1, 4, 4), 2.5), (7, 7)), torch.tensor(2.5))
