"""How far a file is from its model, over all outputs."""

import torch

from hf_compress.measure.agreement import Agreement


def test_differences_are_the_largest_of_all_images_and_classes_are_counted():
    agreement = Agreement()
    agreement.add({"logits": torch.tensor([[2.0, 1.0]])}, {"logits": torch.tensor([[2.0, 2.5]])})
    agreement.add({"logits": torch.tensor([[0.0, 3.0]])}, {"logits": torch.tensor([[0.5, 3.0]])})
    assert agreement.row == {"max_difference": {"logits": 1.5}, "top1_agreement": 0.5}
    assert str(agreement) == "logits differ by 1.5, the best class is the same for 50.0% of the images"
    assert agreement.within(0.5)  # of the largest logit, 3
    assert not agreement.within(0.49)


def test_every_output_counts():
    agreement = Agreement()
    agreement.add(
        {"boxes": torch.ones(1, 4), "scores": torch.full((1, 2), 100.0)},
        {"boxes": torch.ones(1, 4) + 0.5, "scores": torch.full((1, 2), 100.0)},
    )
    assert agreement.row == {"max_difference": {"boxes": 0.5, "scores": 0.0}}
    assert not agreement.within(0.01)


def test_what_is_not_finite_never_agrees():
    agreement = Agreement()
    for found in (float("nan"), 1.0):
        agreement.add({"logits": torch.ones(1, 2)}, {"logits": torch.full((1, 2), found)})
    assert not agreement.within(float("inf"))
