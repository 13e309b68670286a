"""Test images in a card: which are shown, what is drawn of them, and that nobody sends them unasked."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from detectors import saved_detector, yolos
from PIL import Image
from reports import report
from shapes import COLOURS as SHADES
from shapes import NAMES, PROCESSOR, tiny_segmenter
from transformers import DPTImageProcessor

from hf_compress.data.boxes import make_boxes
from hf_compress.data.masks import VOID
from hf_compress.ground.manifest import adding
from hf_compress.hub.contents import _named
from hf_compress.measure.detections import CONFIDENT
from hf_compress.models.load import LoadedModel
from hf_compress.models.students import build_registered
from hf_compress.report.card import render_card
from hf_compress.report.examples import EXAMPLES, draw_examples, examples_figure
from hf_compress.report.run import write_report
from hf_compress.sections.models import TEACHER
from hf_compress.tasks.classification import CLASSIFICATION, Answered, answers, chosen
from hf_compress.tasks.depth import DEPTH
from hf_compress.tasks.detection import DETECTION
from hf_compress.tasks.looking import ranked
from hf_compress.tasks.segmentation import SEGMENTATION
from hf_compress.tasks.sheets import COLOURS, FINAL, OTHER, WHITE, Mark, Panel, Sheet, coloured, legend

PICTURE = np.zeros((16, 16, 3), np.uint8)


class Split:
    """Pictures with labels, one number or a dictionary each."""

    def __init__(self, pictures, labels):
        self.pictures, self.labels, self.asked = pictures, labels, []

    def without_augmentation(self):
        return self

    def __len__(self):
        return len(self.labels)

    def __getitems__(self, indices):
        self.asked += indices
        return [{"view": self.pictures[index], "label": self.labels[index]} for index in indices]


def answer(said, true, share):
    return Answered(PICTURE, said, true, share)


def test_right_ones_are_of_many_classes_and_wrong_ones_the_surest():
    right = [answer(name, name, 0.9) for name in "aaaaaabbc"]
    wrong = [answer("a", "b", share) for share in (0.3, 0.9, 0.5, 0.6, 0.7, 0.8)]
    shown, mistaken = chosen(right + wrong)
    assert [each.true for each in shown] == ["a", "b", "c", "a", "a"]
    assert [each.share for each in mistaken] == [0.9, 0.8, 0.7, 0.6, 0.5]


def test_the_model_is_asked_about_right_and_wrong_images():
    torch.manual_seed(0)
    loaded = build_registered("resnet18", list("abcd"), width=0.125, image_size=32)
    shades = [torch.full((3, 8, 8), index, dtype=torch.uint8) for index in range(100)]
    split = Split(shades, [index % 4 if index % 2 else -100 for index in range(100)])
    by_image = [0.0 if index in (7, 9) else 1.0 for index in range(100)]
    sheet = CLASSIFICATION.examples({FINAL: loaded}, split, by_image, False)
    assert {7, 9} < set(split.asked) and len(split.asked) == 34 and all(index % 2 for index in split.asked)
    assert len(sheet.rows) == 2 and [panel.wrong for row in sheet.rows for panel in row] == [False] * 5 + [True] * 5
    (shown,) = answers(loaded, split, [3])
    with torch.inference_mode():
        pixels = loaded.processor([shades[3]], return_tensors="pt")["pixel_values"]
        logits = loaded.model.eval()(pixel_values=pixels).logits[0]
    assert shown[1:] == ("abcd"[logits.argmax()], "d", pytest.approx(float(logits.softmax(0).max()), abs=1e-5))
    assert answer("a very long name of a class", "b", 0.256).panel.text == "a very long name … 26%\nis b"


def test_images_from_the_best_to_the_worst_by_a_metric_are_those_with_a_label():
    split = Split([], [0, 1, -100, 1, 0, 1, 1])
    values = [0.5, 0.9, 1.0, 0.1, 0.7, 0.3, 0.6]
    higher = SimpleNamespace(higher_is_better=True)
    assert ranked(split, values, higher) == {1: "best", 4: "", 6: "median", 0: "", 3: "worst"}
    lower = SimpleNamespace(higher_is_better=False)
    assert list(ranked(split, values, lower)) == [3, 5, 0, 6, 1]
    assert ranked(Split([], [1, -100]), [0.5, 0.5], higher) == {0: "best"}
    assert ranked(split, [], higher) == dict.fromkeys([0, 1, 4, 5, 6], "")


def test_classes_beyond_the_colours_share_one():
    colours = coloured([2, 0, 1], [(0, 0, 0), (9, 9, 9)])
    assert colours == {2: (0, 0, 0), 0: (9, 9, 9), 1: OTHER}
    assert legend(colours, list("abc")) == {"c": (0, 0, 0), "a": (9, 9, 9), "other classes": OTHER}


@pytest.fixture(scope="module")
def squares():
    """A sheet of two segmenters for two pictures, of which the upper half is not labelled."""
    mask = torch.tensor(np.repeat([VOID, 0, 1, 2], 10)[:, None].repeat(80, 1), dtype=torch.uint8)
    picture = torch.tensor(SHADES[mask.numpy()], dtype=torch.uint8).permute(2, 0, 1)
    split = Split([picture, picture], [{"mask": mask}] * 2)
    models = {
        who: LoadedModel(tiny_segmenter(hidden=hidden), PROCESSOR, who) for who, hidden in ((TEACHER, 32), (FINAL, 16))
    }
    return models, SEGMENTATION.examples(models, split, [0.2, 0.8], False)


def test_masks_of_truth_and_models_have_one_colour_a_class(squares):
    models, sheet = squares
    assert sheet.headings == ["image", "truth", "teacher", "final model"] and sheet.names == ["best", "worst"]
    image, truth, teacher, final = sheet.rows[0]
    assert image.picture.shape == (32, 32, 3) and image.tall == pytest.approx(0.5, rel=0.03)
    assert (truth.picture[:8] == WHITE).all() and sheet.legend["not labelled"] == WHITE
    assert list(image.picture[-1, 0]) == [40, 40, 210] and tuple(truth.picture[-1, 0]) == sheet.legend["blue"]
    pixels = torch.tensor(image.picture).permute(2, 0, 1)
    for panel, loaded in zip((teacher, final), models.values(), strict=True):
        inputs = PROCESSOR([pixels], return_tensors="pt")
        with torch.inference_mode():
            output = loaded.model(**inputs)
        (named,) = PROCESSOR.post_process_semantic_segmentation(output, target_sizes=[(32, 32)])
        palette = np.array([sheet.legend.get(name, (1, 1, 1)) for name in NAMES], np.uint8)
        assert (panel.picture == palette[named.numpy()]).all(axis=2).mean() > 0.98  # the picture was rounded


def test_the_most_frequent_class_has_the_first_colour(squares):
    _, sheet = squares
    panels = np.stack([panel.picture for row in sheet.rows for panel in row[1:]]).reshape(-1, 3)
    counts = [(panels == colour).all(axis=1).sum() for colour in COLOURS[:3]]
    assert counts == sorted(counts, reverse=True) and sum(counts) > 0


def test_a_sheet_is_drawn_with_its_colours_and_shapes(squares, tmp_path):
    _, sheet = squares
    draw_examples(sheet, tmp_path / "figures" / "sheet.png")
    with Image.open(tmp_path / "figures" / "sheet.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB"))
    assert 850 < pixels.shape[1] < 950 and pixels.shape[0] < 0.5 * pixels.shape[1]
    found = {tuple(colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0).tolist()}
    assert set(sheet.legend.values()) <= found


def test_texts_at_boxes_cover_no_others():
    boxes = [(0.1 + 0.02 * step, 0.1 + 0.02 * step, 0.6, 0.6) for step in range(12)]
    marks = tuple(Mark(box, COLOURS[step], f"object {step}") for step, box in enumerate(boxes))
    figure = examples_figure(Sheet([[Panel(np.zeros((64, 64, 3), np.uint8), marks=marks)]]))
    figure.draw_without_rendering()
    texts = figure.axes[0].texts
    extents = [text.get_bbox_patch().get_window_extent() for text in texts]
    assert 4 <= len(texts) < 12 and texts[0].get_text() == "object 0"
    assert all(one.count_overlaps(extents[:place]) == 0 for place, one in enumerate(extents))


def test_objects_and_detections_lie_where_they_are(tmp_path):
    """The picture is twice as wide as high; both are shares of it, whatever the model's input is."""
    image = torch.zeros(3, 32, 64, dtype=torch.uint8)
    split = Split([image], [make_boxes([[0, 8, 16, 16]], [1], size=(32, 64)).parts()])
    loaded = DETECTION.load(saved_detector(yolos(), tmp_path / "model"))
    loaded.model.class_labels_classifier.layers[-1].bias.data[0] += 0.7  # now it is sure of something
    sheet = DETECTION.examples({FINAL: loaded}, split, [], False)
    (true, final), *others = sheet.rows
    assert not others and sheet.headings == ["truth", "final model"] and sheet.names == []
    assert true.tall == pytest.approx(0.5, rel=0.03)
    ((box, colour, text),) = true.marks
    assert box == pytest.approx((0, 0.25, 0.25, 0.75)) and text == "green" and colour == sheet.legend["green"]
    with torch.inference_mode():
        output = loaded.model(**loaded.processor(images=[image], return_tensors="pt"))
    (wanted,) = loaded.processor.post_process_object_detection(output, threshold=CONFIDENT)
    assert len(final.marks) == len(wanted["scores"]) > 0
    assert final.marks[0].box == pytest.approx(wanted["boxes"][wanted["scores"].argmax()].tolist(), abs=1e-5)
    assert final.marks[0].text.endswith(f" {wanted['scores'].max():.2f}")


def test_depths_of_both_models_have_the_scale_of_the_teachers(tmp_path):
    ramp = torch.linspace(1, 3, 56).expand(56, 56)
    split = Split([torch.zeros(3, 56, 56, dtype=torch.uint8)], [{"seen": ramp}])
    loaded = LoadedModel(Ramp(), DPTImageProcessor(size={"height": 56, "width": 56}), FINAL)
    sheet = DEPTH.examples({TEACHER: loaded, FINAL: loaded}, split, [0.1], True)
    assert sheet.headings == ["image", "teacher", "final model"] and sheet.names == ["best"]
    ((image, teacher, final),) = sheet.rows
    assert image.picture.shape == teacher.picture.shape == (56, 56, 3)
    smallest, _, largest = sheet.legend.values()
    assert tuple(teacher.picture[0, 0]) == smallest and tuple(teacher.picture[0, -1]) == largest
    assert np.abs(final.picture.astype(int) - teacher.picture).max() <= 5  # its own are 10 times as large, and shifted


class Ramp(torch.nn.Module):
    """Says that all pictures get deeper to the right."""

    def forward(self, pixel_values):
        return SimpleNamespace(predicted_depth=torch.linspace(30, 50, 28).expand(len(pixel_values), 28, 28))


def test_a_card_shows_them_but_publishing_leaves_them_out(tmp_path):
    folder = tmp_path / "run"
    with adding(folder, "run") as new:
        write_report(new / "report.json", report())
        panels = [answer("cat", "dog", 0.8).panel, answer("owl", "owl", 1.0).panel]
        draw_examples(Sheet([[Panel(panel.picture, panel.text)] for panel in panels]), new / EXAMPLES)
    assert f"![{CLASSIFICATION.pictured}]({EXAMPLES})" in render_card(folder).text
    assert EXAMPLES not in render_card(folder, examples=False).text
    assert _named(folder, []) == ["report.json"]
    assert EXAMPLES in _named(folder, [EXAMPLES])
