"""Segmentation: a class a pixel, from the recipe to a folder that `pipeline` opens."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shapes import NAMES, PROCESSOR, draw_folder, saved_segmenter, tiny_segmenter
from torch.nn import functional as F
from transformers import MobileNetV2ImageProcessor
from typer.testing import CliRunner

from hf_compress import Recipe, compress
from hf_compress.cli import app
from hf_compress.data.images import IGNORED_LABEL
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.losses.criterion import DistillationCriterion
from hf_compress.losses.layer_maps import Answer
from hf_compress.models.students import build_registered, build_student
from hf_compress.report.examples import EXAMPLES
from hf_compress.sections.data import DataSection
from hf_compress.sections.distillation import DistillSection
from hf_compress.sections.models import StudentSection
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.tasks.base import Predictions
from hf_compress.tasks.segmentation import SEGMENTATION
from hf_compress.tools.evaluation import evaluate_folder
from hf_compress.training.predicting import predictor
from tests.without_torch import said_alone

FAST = {"epochs": 6, "batch_size": 6, "learning_rate": 0.01}
CHILD = """
import json, sys
import hf_compress
from transformers import pipeline
answers = pipeline("image-segmentation", model=sys.argv[1], device="cpu")(sys.argv[2])
print(json.dumps({answer["label"]: sum(pixel > 0 for pixel in answer["mask"].getdata()) for answer in answers}))
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_folder(tmp_path_factory.mktemp("shapes"), train=40, validation=12, test=16)


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    work = tmp_path_factory.mktemp("run")
    prune = {"amount": 0.3, "iterative": False, "importance": "taylor", "calibration": 16, "recovery": FAST}
    recipe = {
        "task": "segmentation",
        "teacher": {"model": saved_segmenter(work / "teacher"), "finetune": FAST | {"always": True}},
        "student": saved_segmenter(work / "student", names=["blue", "ground", "red"], hidden=16),
        "data": {"path": str(root), "augmentation": "light"},
        "steps": [{"distill": FAST | {"loss": "mse_ce"}}, {"prune": prune}],
        "deploy": ["onnx"],
        "measure": {"repeats": 3, "batch_size": 2},
    }
    return compress(Recipe.from_dict(recipe), work / "out", log=lambda line: None)


def test_a_recipe_of_masks_becomes_a_smaller_model_that_names_pixels(run):
    rows = {row["stage"]: row for row in run.report["rows"]}
    assert rows["teacher"]["quality"]["mean_iou"] > 0.7
    assert rows["student"]["quality"]["mean_iou"] < 0.4 < 0.6 < rows["1 distill"]["quality"]["mean_iou"]
    assert rows["2 prune"]["cost"]["macs"] < 0.8 * rows["1 distill"]["cost"]["macs"]
    assert rows["2 prune"]["quality"]["mean_iou"] > 0.6
    overlaps = rows["2 prune"]["class_iou"]
    assert sum(overlaps) / 3 == pytest.approx(rows["2 prune"]["quality"]["mean_iou"])
    (file,) = run.report["deployed"]
    assert file["max_difference"]["logits"] < 0.01
    assert file["quality"]["mean_iou"] == pytest.approx(rows["2 prune"]["quality"]["mean_iou"], abs=1e-3)
    again = evaluate_folder(str(run.folder), None)["quality"]
    assert again == pytest.approx(rows["2 prune"]["quality"], abs=1e-6)


def test_the_script_beside_its_file_names_the_pixels_of_a_picture_in_its_own_size(run, root, tmp_path):
    pictures = [shutil.copy(root / "test" / "images" / f"{number}.png", tmp_path) for number in range(16)]
    said = said_alone(run.folder / run.report["deployed"][0]["script"], pictures)
    loaded, same, seen = SEGMENTATION.load(str(run.folder)), [], set()
    for picture, (name, file, shares) in zip(pictures, said, strict=True):
        assert (name, file) == (picture, f"{picture}.classes.png")
        inputs = loaded.processor(Image.open(picture), return_tensors="pt")
        with torch.no_grad():
            output = loaded.model(**inputs)
        (asked,) = loaded.processor.post_process_semantic_segmentation(output, target_sizes=[(40, 48)])
        found = np.asarray(Image.open(file))
        same.append((found == asked.numpy()).mean())
        best = int(np.bincount(found.ravel()).argmax())
        assert shares.startswith(f"{loaded.label_names[best]} {(found == best).mean():.1%}")
        seen |= set(np.unique(found))
    assert np.mean(same) > 0.999 and seen == {0, 1, 2}
    card = (run.folder / "README.md").read_text()
    assert "python deploy/predict_onnx.py photo.jpg" in card and "uses it without PyTorch" in card


def test_predict_says_what_the_script_says_of_file_and_folder(run, root, tmp_path):
    pictures = [root / "test" / "images" / f"{number}.png" for number in range(4)]
    copies = [shutil.copy(picture, tmp_path) for picture in pictures]
    said_alone(run.folder / run.report["deployed"][0]["script"], copies)
    said = {}
    for name in ("deploy/model.onnx", "."):
        command = ["predict", str(run.folder / name), *map(str, pictures), "--maps", str(tmp_path / name), "--json"]
        said[name] = json.loads(CliRunner().invoke(app, command).stdout)
        for copy in copies:
            mask = tmp_path / name / f"{Path(copy).name}.classes.png"
            assert np.array_equal(Image.open(mask), Image.open(f"{copy}.classes.png"))
    for row, other in zip(*said.values(), strict=True):
        assert row == other and sum(each["share"] for each in row["pixels"]) == pytest.approx(1)
    command = [
        "benchmark",
        str(run.folder),
        str(run.folder / "deploy/model.onnx"),
        "--images",
        str(pictures[0].parent),
    ]
    whole, file = json.loads(CliRunner().invoke(app, [*command, "--repeats", "2", "--json"]).stdout)
    assert file["agreement"] > 0.999 and "accuracy" not in file and whole["p50_ms"] > 0


def test_its_card_tells_of_pixels(run):
    card = (run.folder / "README.md").read_text()
    assert "pipeline_tag: image-segmentation" in card
    assert "model for semantic segmentation for 3 classes" in card
    assert "AutoModelForSemanticSegmentation.from_pretrained" in card
    assert "| class | training images | test images | IoU, teacher teacher | IoU, this model |" in card
    assert "| blue | 40 | 16 |" in card
    assert "points of accuracy" not in card
    assert f"![{SEGMENTATION.pictured}](figures/examples.png)" in card and (run.folder / EXAMPLES).is_file()


@pytest.mark.long
def test_a_new_process_opens_the_folder_as_a_pipeline(run, root):
    picture = root / "test" / "images" / "0.png"
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(run.folder), str(picture)], capture_output=True, text=True, check=True
    )
    found = json.loads(child.stdout.splitlines()[-1])
    assert set(found) == set(NAMES) and sum(found.values()) == 40 * 48


def test_the_loss_is_that_of_the_labelled_pixels_at_their_size():
    logits = torch.randn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 16, 16))
    labels[0, :9] = IGNORED_LABEL
    found = SEGMENTATION.loss(type("Output", (), {"logits": logits}), {"labels": labels})
    large = F.interpolate(logits, (16, 16), mode="bilinear")
    assert found == pytest.approx(F.cross_entropy(large, labels, ignore_index=IGNORED_LABEL).item())
    nothing = {"labels": torch.full_like(labels, IGNORED_LABEL)}
    assert SEGMENTATION.loss(type("Output", (), {"logits": logits}), nothing) == 0


@pytest.mark.parametrize("name", ["mse", "kl", "mse_ce", "kl_ce", "dist"])
def test_a_distillation_compares_pixel_by_pixel(name):
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    labels = torch.randint(0, 3, (2, 4, 4))
    labels[1, 2:] = IGNORED_LABEL
    found = distance(name, student, teacher, labels)
    pixels = [(i, y, x) for i in range(2) for y in range(4) for x in range(4)]
    rows = [torch.stack([maps[i, :, y, x] for i, y, x in pixels]) for maps in (student, teacher)]
    classes = torch.tensor([labels[pixel].item() for pixel in pixels])
    by_row = DistillationCriterion(
        DistillSection(loss=name), lambda loss, mine, theirs, batch: loss(mine["logits"], theirs["logits"], classes)
    )
    batch = {"labels": classes}
    assert found == pytest.approx(by_row(Answer({"logits": rows[0]}), Answer({"logits": rows[1]}), batch).item())


def distance(name, student, teacher, labels):
    criterion = DistillationCriterion(DistillSection(loss=name), SEGMENTATION.compare)
    return criterion(Answer({"logits": student}), Answer({"logits": teacher}), {"labels": labels}).item()


def test_a_teacher_of_another_size_is_compared_at_the_students():
    small = torch.randn(1, 3, 4, 4)
    large = small.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    labels = torch.full((1, 16, 16), IGNORED_LABEL)
    assert distance("mse", small, large, labels) < 0.01 < distance("mse", small, large.flip(2), labels)


def test_answers_of_a_model_are_targets_where_it_has_none():
    model = tiny_segmenter()
    pictures = [{"view": torch.randint(0, 256, (3, 40, 48), dtype=torch.uint8), "label": IGNORED_LABEL}] * 2
    (batch,) = Calibration(pictures, PROCESSOR, model, SEGMENTATION)._batches()
    with torch.no_grad():
        logits = model(pixel_values=batch["pixel_values"]).logits
    wanted = F.interpolate(logits, (32, 32), mode="bilinear").argmax(1)
    assert torch.equal(batch["labels"], wanted)
    (answer, _) = SEGMENTATION.as_targets(Predictions({"logits": logits}, batch["labels"]))
    assert torch.equal(answer.seen.long(), wanted[0])


def test_without_masks_a_model_is_measured_by_what_its_teacher_names(root, tmp_path):
    shutil.copytree(root, tmp_path / "plain", ignore=shutil.ignore_patterns("masks", "*.json"))
    data = SEGMENTATION.read(DataSection(path=str(tmp_path / "plain")), 0)
    assert not data.labelled
    teacher = SEGMENTATION.load(saved_segmenter(tmp_path / "teacher"))
    other = SEGMENTATION.load(saved_segmenter(tmp_path / "other", hidden=16))
    predict = predictor(SEGMENTATION, 0)
    judged = SEGMENTATION.labelled_by(teacher, data, predict)
    examine = SEGMENTATION.examiner(judged, "test", teacher, predict)
    assert examine(teacher)["quality"] == {"teacher_agreement": 1.0}
    assert examine(other)["quality"]["teacher_agreement"] < 0.9


def test_classes_in_another_order_are_put_into_that_of_the_data(tmp_path):
    saved_segmenter(tmp_path / "model")
    images = torch.rand(2, 3, 32, 32)
    own = SEGMENTATION.load(str(tmp_path / "model"))
    other = SEGMENTATION.load(str(tmp_path / "model"), labels=["blue", "ground", "red"])
    assert not other.new_head
    with torch.no_grad():
        wanted, found = (loaded.model(pixel_values=images).logits for loaded in (own, other))
    torch.testing.assert_close(found, wanted[:, [2, 0, 1]])
    renewed = SEGMENTATION.load(str(tmp_path / "model"), labels=["a", "b"])
    assert renewed.new_head and renewed.label_names == ["a", "b"]


@pytest.mark.parametrize("name", ["segformer_b0", "deeplabv3_mobilenet_v2"])
def test_registered_students_make_maps_that_see_what_the_teacher_sees(name, tmp_path):
    teacher = SEGMENTATION.load(saved_segmenter(tmp_path / "model"))
    teacher.processor = MobileNetV2ImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    student = build_student(StudentSection(model=name, width=0.25), NAMES, teacher, SEGMENTATION)
    assert student.processor.to_dict() == teacher.processor.to_dict()
    assert student.model(torch.zeros(1, 3, 32, 32)).logits.shape[:2] == (1, 3)
    resized = build_student(StudentSection(model=name, width=0.25, image_size=64), NAMES, teacher, SEGMENTATION)
    assert dict(resized.processor.crop_size) == {"height": 64, "width": 64}
    full = build_registered(name, NAMES).model.num_parameters()
    assert student.model.num_parameters() < 0.2 * full


def test_segformer_b0_is_the_published_one():
    """For the 150 classes of ADE20k it has 3.8 M parameters (Xie et al., 2021, table 1)."""
    model = build_registered("segformer_b0", [str(number) for number in range(150)]).model
    assert model.num_parameters() == 3_752_694


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": {"path": "x", "mixup": 0.2}}, "mix classes, which 'task: segmentation' leaves out"),
        (
            {"student": {"model": "auto", "budget": {"macs": 1e6}}},
            "'task: segmentation' does not have",
        ),
        ({"teacher": {"ensemble": ["a/b", "c/d"]}}, "'task: segmentation' leaves out: name one teacher"),
    ],
)
def test_what_it_does_not_offer_is_refused(change, says):
    values = {"task": "segmentation", "teacher": "a/b", "student": "c/d", "data": "x", "steps": ["distill"]}
    with pytest.raises(UsageError, match=says):
        Recipe.from_dict(values | change)


def test_models_of_other_tasks_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no SemanticSegmentation of 'resnet18': name one of deeplab"):
        build_student(StudentSection(model="resnet18"), NAMES, None, SEGMENTATION)
    built = build_registered("resnet18", NAMES, width=0.125, image_size=32)
    built.model.save_pretrained(tmp_path)
    built.processor.save_pretrained(tmp_path)
    with pytest.raises(RunError, match="is not a model for semantic segmentation"):
        SEGMENTATION.load(str(tmp_path))
