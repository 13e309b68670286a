"""Test images in a card: which are shown, and that nobody sends them unasked."""

import numpy as np
import pytest
import torch
from PIL import Image
from reports import report

from hf_compress.ground.manifest import adding
from hf_compress.hub.contents import _named
from hf_compress.models.students import build_registered
from hf_compress.report.card import render_card
from hf_compress.report.examples import EXAMPLES, chosen, draw_examples
from hf_compress.report.run import write_report
from hf_compress.run.examples import write_examples
from hf_compress.tasks.base import Shown
from hf_compress.tasks.classification import CLASSIFICATION

PICTURE = np.zeros((16, 16, 3), np.uint8)


def example(said, true, share):
    return PICTURE, Shown(said, true, share)


def test_right_ones_are_of_many_classes_and_wrong_ones_the_surest():
    right = [example(name, name, 0.9) for name in "aaaaaabbc"]
    wrong = [example("a", "b", share) for share in (0.3, 0.9, 0.5, 0.6, 0.7, 0.8)]
    shown, mistaken = chosen(right + wrong)
    assert [each[1].true for each in shown] == ["a", "b", "c", "a", "a"]
    assert [each[1].share for each in mistaken] == [0.9, 0.8, 0.7, 0.6, 0.5]


class Split(torch.utils.data.Dataset):
    """Pictures of one shade each; every second one has no label."""

    def __init__(self):
        self.asked = []

    def without_augmentation(self):
        return self

    def __len__(self):
        return 100

    def __getitem__(self, index):
        self.asked.append(index)
        return {"view": torch.full((3, 8, 8), index, dtype=torch.uint8), "label": index % 4 if index % 2 else -100}


def test_the_model_is_asked_about_right_and_wrong_images(tmp_path):
    torch.manual_seed(0)
    loaded, split = build_registered("resnet18", list("abcd"), width=0.125, image_size=32), Split()
    by_image = [0.0 if index in (7, 9) else 1.0 for index in range(100)]
    write_examples(loaded, split, by_image, CLASSIFICATION, tmp_path)
    assert {7, 9} < set(split.asked) and len(split.asked) == 34
    with Image.open(tmp_path / EXAMPLES) as drawn:
        assert drawn.width > 500
    (shown,) = CLASSIFICATION.shown(loaded, [split[3]])
    with torch.inference_mode():
        pixels = loaded.processor([split[3]["view"]], return_tensors="pt")["pixel_values"]
        logits = loaded.model.eval()(pixel_values=pixels).logits[0]
    assert shown == Shown("abcd"[logits.argmax()], "d", pytest.approx(float(logits.softmax(0).max()), abs=1e-5))


def test_a_card_shows_them_but_publishing_leaves_them_out(tmp_path):
    folder = tmp_path / "run"
    with adding(folder, "run") as new:
        write_report(new / "report.json", report())
        draw_examples([example("cat", "dog", 0.8), example("owl", "owl", 1.0)], new / EXAMPLES)
    assert EXAMPLES in render_card(folder).text
    assert EXAMPLES not in render_card(folder, examples=False).text
    assert _named(folder, []) == ["report.json"]
    assert EXAMPLES in _named(folder, [EXAMPLES])
