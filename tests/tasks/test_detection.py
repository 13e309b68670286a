"""Object detection: from a recipe to a folder that `pipeline` reads, and what is taught on the way."""

import copy
import json
import shutil
import subprocess
import sys

import pytest
import torch
from detectors import NAMES, SIDE, rt_detr, saved_detector, write_squares, yolos
from PIL import Image
from torch.nn import functional as F
from torchvision.transforms import v2
from transformers import ResNetConfig, ResNetForImageClassification, RTDetrImageProcessor, ViTImageProcessor
from transformers.loss.loss_for_object_detection import generalized_box_iou
from typer.testing import CliRunner

import hf_compress
from hf_compress import Recipe, compress
from hf_compress.checkpoint import save
from hf_compress.checkpoint.labels import label_options
from hf_compress.cli import app
from hf_compress.data.boxes import UNKNOWN, make_boxes, object_rows
from hf_compress.data.geometry import moved
from hf_compress.data.images import IGNORED_LABEL
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.measure.detections import as_objects, best_of_queries
from hf_compress.models.exporting import exportable
from hf_compress.models.load import LoadedModel
from hf_compress.models.students import build_registered
from hf_compress.sections.data import DataSection
from hf_compress.tasks.base import Predictions
from hf_compress.tasks.detection import DETECTION
from hf_compress.tools.evaluation import evaluate_folder
from tests.without_torch import said_alone

FAST = {"epochs": 1, "batch_size": 12, "learning_rate": 0.001}
CHILD = """
import sys
from transformers import pipeline
import hf_compress
find = pipeline("object-detection", model=sys.argv[1])
found = find(sys.argv[2], threshold=0.0)
print(len(found), sorted({each["label"] for each in found}))
"""


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return write_squares(tmp_path_factory.mktemp("squares") / "data")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detectors")
    return {"rt_detr": saved_detector(rt_detr(), folder / "rt"), "yolos": saved_detector(yolos(), folder / "yolos")}


@pytest.fixture(scope="module")
def run(squares, folders, tmp_path_factory):
    """A thinner RT-DETR, taught by one that sees the same classes, without labels as well."""
    recipe = Recipe.from_dict(
        {
            "task": "detection",
            "teacher": folders["rt_detr"],
            "data": {"path": squares, "augmentation": "standard", "labelled": 0.5},
            "steps": [
                {"finetune": FAST},
                {"distill": FAST},
                {"prune": {"amount": 0.4, "iterative": False, "round_to": 1, "recovery": {"epochs": 0}}},
            ],
            "measure": {"repeats": 3},
        }
    )
    return compress(recipe, tmp_path_factory.mktemp("run") / "run", log=lambda line: None)


@pytest.mark.parametrize("kind", [pytest.param("rt_detr", marks=pytest.mark.long), "yolos"])
def test_the_script_beside_its_file_finds_what_a_detector_finds(kind, squares, tmp_path):
    detector = {"rt_detr": rt_detr, "yolos": yolos}[kind]()
    for name, layer in detector.named_modules():
        if "class_" in name and getattr(layer, "out_features", 9) <= 3:  # or nothing would be sure
            torch.nn.init.normal_(layer.weight, std={2: 1, 3: 9}[layer.out_features])
            torch.nn.init.zeros_(layer.bias)
            torch.nn.init.constant_(layer.bias[2:], -99)  # no object
    if kind == "yolos":
        torch.nn.init.normal_(detector.vit.embeddings.detection_tokens)  # or all queries were alike
    folder = saved_detector(detector, tmp_path / "detector")
    (row,) = hf_compress.export(folder, "onnx", data=squares, output=tmp_path / "file")
    pictures = [f"{squares}/test/{number}.png" for number in range(8)]
    found = said_alone(tmp_path / "file" / row["script"], pictures)
    loaded = DETECTION.load(folder)
    asked = []
    for picture in pictures:
        inputs = loaded.processor(Image.open(picture), return_tensors="pt")
        with torch.no_grad():
            output = loaded.model(pixel_values=inputs["pixel_values"])
        (objects,) = loaded.processor.post_process_object_detection(output, threshold=0.4, target_sizes=[(48, 80)])
        for score, label, box in zip(*(objects[key].tolist() for key in ("scores", "labels", "boxes")), strict=True):
            asked.append((picture, NAMES[label], score, box))
    assert len(found) == len(asked) > 16
    for picture, label, score, *edges in found:
        said = picture, label, pytest.approx(float(score), abs=1e-3), pytest.approx(list(map(float, edges)), abs=0.06)
        asked.remove(next(each for each in asked if each == said))
    for model in (tmp_path / "file" / row["file"], folder):
        lines = CliRunner().invoke(app, ["predict", str(model), *pictures]).stdout.splitlines()
        assert [line.split()[1] for line in lines if "nothing" not in line] == [line[1] for line in found]


@pytest.mark.long
def test_a_recipe_makes_a_smaller_detector_that_pipeline_reads_in_a_new_process(run, squares):
    rows = {row["stage"]: row for row in run.report["rows"]}
    assert list(rows) == ["teacher", "1 finetune", "2 distill", "3 prune"]
    assert all(set(row["quality"]) == {"map", "map_50"} for row in rows.values())
    for row in rows.values():
        told = [value for value in row["class_ap"] if value is not None]
        assert sum(told) / len(told) == pytest.approx(row["quality"]["map"])
    assert rows["3 prune"]["cost"]["parameters"] < 0.8 * rows["teacher"]["cost"]["parameters"]
    assert run.report["data"]["splits"]["train"]["images"] == 12
    (pruned,) = rows["3 prune"]["details"]["rounds"]
    assert "least_squares" in pruned["repaired"] and pruned["output_error_after"] < 0.7 * pruned["output_error_before"]
    assert "validation_map" in rows["2 distill"]["details"]["epochs"][0]
    assert evaluate_folder(str(run.folder), None)["quality"] == rows["3 prune"]["quality"]
    card = (run.folder / "README.md").read_text()
    assert "pipeline_tag: object-detection" in card and "object detector for 2 classes" in card
    assert "| mAP |" in card and "| AP, this model |" in card and "post_process_object_detection" in card

    picture = f"{squares}/test/0.png"
    child = [sys.executable, "-c", CHILD, str(run.folder), picture]
    said = subprocess.run(child, capture_output=True, text=True, check=True).stdout.split(maxsplit=1)
    assert int(said[0]) == 20 and said[1].strip() in (str(sorted(NAMES)), "['green']", "['red']")


def item(boxes, view=(48, 80)):
    return {"view": torch.zeros(3, *view, dtype=torch.uint8), "label": boxes}


def test_targets_are_those_of_the_image_processor_and_tell_of_crowds():
    boxes = make_boxes([[8, 12, 16, 24], [40, 0, 40, 48]], [1, 0], [False, True], (48, 80))
    processor = RTDetrImageProcessor(size={"height": SIDE, "width": SIDE})
    rows = object_rows([item(boxes.parts()), item(IGNORED_LABEL)], processor)
    assert rows[0].tolist() == [pytest.approx([1, 0, 0.2, 0.5, 0.2, 0.5]), pytest.approx([0, 1, 0.75, 0.5, 0.5, 1.0])]
    assert rows[1, 0, 0] == UNKNOWN and (rows[1].flatten()[1:] == -100).all()


def test_crowds_teach_nothing(pixels):
    objects = torch.tensor([[[1, 0, 0.5, 0.5, 0.2, 0.2], [0, 1, 0.3, 0.3, 0.5, 0.5]]] * 2)
    model = yolos()
    output = DETECTION.forward(model, {"pixel_values": pixels, "labels": objects})
    own = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]])}] * 2
    torch.testing.assert_close(DETECTION.loss(output, {}), model(pixel_values=pixels, labels=own).loss)


def test_boxes_move_with_the_picture_and_are_cut_off_at_its_edges():
    boxes = make_boxes([[8, 12, 16, 24], [60, 0, 20, 10]], [1, 0], None, (48, 80))
    picture = torch.zeros(3, 48, 80, dtype=torch.uint8)
    _, parts = moved(v2.RandomHorizontalFlip(1), picture, boxes.parts())
    assert boxes.in_view(parts)["boxes"].tolist() == [[56, 12, 72, 36], [0, 0, 20, 10]]
    _, parts = moved(v2.CenterCrop((24, 60)), picture, boxes.parts())  # from row 12 and column 10 on
    seen = boxes.in_view(parts)
    assert seen["boxes"].tolist() == [[0, 0, 14, 24]] and seen["kinds"].tolist() == [1]


def test_an_augmented_split_shows_boxes_where_the_squares_are(squares):
    data = DETECTION.read(DataSection(path=squares, augmentation="standard"), 0)
    assert data.label_names == NAMES and len(data.test) == 8
    shown = data.augmented("standard", RTDetrImageProcessor(size={"height": SIDE, "width": SIDE})).train
    for each in [shown[index] for index in range(12)]:
        for (left, top, right, bottom), kind in zip(
            each["label"]["boxes"].tolist(), each["label"]["kinds"], strict=True
        ):
            inside = each["view"][:, round(top) + 1 : round(bottom) - 1, round(left) + 1 : round(right) - 1]
            if inside.numel():
                assert inside[kind].float().mean() > 2 * inside[1 - kind].float().mean()


def test_learnt_queries_are_compared_one_by_one():
    """Of one query in two, the teacher is sure by 0.9; classes by the loss, boxes as DETR compares them."""
    torch.manual_seed(0)
    student, teacher = (
        {
            "logits": torch.randn(2, 3, 2),
            "pred_boxes": torch.rand(2, 3, 4) * 0.2 + 0.3,
            "no_object": torch.randn(2, 3, 1),
        }
        for _ in range(2)
    )

    def mse(mine, theirs, labels):
        return F.mse_loss(mine.softmax(-1), theirs.softmax(-1))

    sure = torch.cat([teacher["logits"], teacher["no_object"]], dim=-1).softmax(-1)[..., :2].amax(-1)
    total = 0
    pairs = zip(*(said["pred_boxes"].flatten(0, 1) for said in (student, teacher)), sure.flatten(), strict=True)
    for mine, theirs, weight in pairs:
        corners = [torch.cat([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])[None] for box in (mine, theirs)]
        total += weight * (5 * (mine - theirs).abs().sum() + 2 * (1 - generalized_box_iou(*corners)[0, 0]))
    classes = [torch.cat([said["logits"], said["no_object"]], dim=-1).flatten(0, 1) for said in (student, teacher)]
    expected = mse(*classes, None) + total / sure.sum()
    torch.testing.assert_close(DETECTION.compare(mse, student, teacher, {}), expected)


def test_classes_of_a_sigmoid_are_compared_each_alone():
    """The binary divergence of each class, summed over the classes; equal boxes add nothing."""
    boxes = torch.rand(1, 4, 4) * 0.2 + 0.3
    student, teacher = ({"logits": torch.randn(1, 4, 3), "pred_boxes": boxes} for _ in range(2))

    def kl(mine, theirs, labels):
        return F.kl_div(mine.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction="batchmean")

    p, q = teacher["logits"].sigmoid(), student["logits"].sigmoid()
    expected = (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(-1).mean()
    torch.testing.assert_close(DETECTION.compare(kl, student, teacher, {}), expected, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def pixels():
    return torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_queries_that_are_selected_learn_what_the_teacher_detects(pixels):
    """The student's own loss on the teacher's confident boxes, whatever labels the images have."""
    student = rt_detr()
    logits = torch.full((2, 20, 2), -5.0)
    logits[0, 3, 1] = 3.0
    teacher = {"logits": logits, "pred_boxes": torch.full((2, 20, 4), 0.5)}
    said = DETECTION.learn(student, {"pixel_values": pixels}, teacher)
    own = [
        {"class_labels": torch.tensor([1]), "boxes": torch.full((1, 4), 0.5)},
        {"class_labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)},
    ]
    expected = student(pixel_values=pixels, labels=own).loss
    torch.testing.assert_close(DETECTION.compare(None, said, teacher, {}), expected)


def test_a_student_is_asked_at_the_places_that_its_teacher_selected(pixels):
    """A twin that likes the other places best says the same at the teacher's, query by query, and learns to select."""
    teacher, student = rt_detr(), rt_detr()
    with torch.no_grad():
        student.model.enc_score_head.weight.neg_()
        said = DETECTION.answer(teacher, pixels)
    assert not torch.equal(DETECTION.answer(student, pixels)["places"], said["places"])
    again = DETECTION.learn(student, {"pixel_values": pixels}, said)
    for name in ("logits", "pred_boxes"):
        torch.testing.assert_close(again[name], said[name])
    apart = DETECTION.compare(lambda mine, theirs, _: F.mse_loss(mine, theirs), again, said, {})
    expected = 2 * F.mse_loss(again["enc_logits"], said["enc_logits"]) / 2  # two classes, each against 0
    assert apart.item() > 0 and apart.item() == pytest.approx(expected.item(), rel=0.01)
    apart.backward()
    assert student.model.enc_score_head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("build", [rt_detr, yolos])
def test_a_student_may_be_wrapped_as_several_processes_wrap_it(build, pixels):
    student = build()
    with torch.no_grad():
        said = DETECTION.answer(torch.nn.DataParallel(student), pixels)
        mine, wrapped = (
            DETECTION.learn(each, {"pixel_values": pixels}, said) for each in (student, torch.nn.DataParallel(student))
        )
    torch.testing.assert_close(mine, wrapped)


def test_held_out_pictures_without_objects_are_refused_before_the_first_training(squares, folders, tmp_path):
    shutil.copytree(squares, tmp_path / "data")
    file = tmp_path / "data" / "test" / "_annotations.coco.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    recipe = Recipe.from_dict(
        {
            "task": "detection",
            "teacher": folders["rt_detr"],
            "data": str(tmp_path / "data"),
            "steps": [{"finetune": FAST}],
        }
    )
    with pytest.raises(UsageError, match=r"'data\.splits\.test': no image of .* has a label"):
        compress(recipe, tmp_path / "run", log=lambda line: None)


def test_a_teacher_that_finds_nothing_is_no_measure(squares, folders):
    data = DETECTION.read(DataSection(path=squares), 0)
    teacher = DETECTION.load(folders["rt_detr"])

    def nothing(loaded, images, whole=False):
        return Predictions({"detections": torch.full((len(images), 100, 6), -1.0)}, torch.zeros(len(images)))

    with pytest.raises(RunError, match="says nothing of the validation images"):
        DETECTION.labelled_by(teacher, data, nothing)


def test_a_student_of_fewer_queries_is_asked_at_the_surest_places(pixels):
    student = rt_detr()
    with torch.no_grad():
        said = DETECTION.answer(student, pixels)
        student.config.num_queries = 5
        fewer = DETECTION.learn(student, {"pixel_values": pixels}, said)
    torch.testing.assert_close(fewer["enc_logits"], said["enc_logits"][:, :5])
    surest = {name: tensor[:, :5] for name, tensor in said.items()}
    apart = [DETECTION.compare(lambda *rows: F.mse_loss(*rows[:2]), fewer, all_or, {}) for all_or in (said, surest)]
    assert apart[0] == apart[1] > 0  # queries see one another
    few = said | {"places": said["places"][:, :5]}
    for shown, teacher in ((pixels, few), (pixels[..., :32, :32], said)):  # too few places, and others
        assert "loss" in DETECTION.learn(rt_detr(), {"pixel_values": shown}, teacher)


def test_a_teacher_of_larger_pictures_is_told_of(pixels):
    small, large = (
        LoadedModel(rt_detr(), RTDetrImageProcessor(size={"height": side, "width": side}), "") for side in (32, 64)
    )
    assert "with 32 x 32 pixels for both (teacher.image_size)" in DETECTION.foreseen(small, large)
    assert DETECTION.foreseen(small, small) is None


def test_queries_of_two_models_are_compared_where_there_are_equally_many(pixels):
    said = DETECTION.answer(yolos(), pixels)
    assert said["no_object"].shape == (2, 8, 1)
    assert "loss" not in DETECTION.learn(yolos(intermediate_size=32), {"pixel_values": pixels}, said)
    fewer = {name: tensor[:, :5] for name, tensor in said.items()}
    assert "loss" in DETECTION.learn(yolos(), {"pixel_values": pixels}, fewer)


def test_answers_become_targets():
    logits, boxes = torch.tensor([[[0.0, 2.0], [-3.0, -2.0]]]), torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.1] * 4]])
    (found,) = DETECTION.as_targets(Predictions({"logits": logits, "pred_boxes": boxes}, torch.zeros(1)))
    assert found.kinds.tolist() == [1] and found.places.tolist() == [pytest.approx([0.4, 0.3, 0.2, 0.4])]
    assert as_objects(best_of_queries({"logits": logits, "pred_boxes": boxes}))[0, 0].tolist() == pytest.approx(
        [1, 0, 0.5, 0.5, 0.2, 0.4]
    )


@pytest.mark.parametrize("kind", ["rt_detr", "yolos"])
def test_classes_in_another_order_move_and_other_names_are_new(folders, pixels, kind):
    plain, moved_classes = (DETECTION.load(folders[kind], labels=names) for names in (NAMES, NAMES[::-1]))
    with torch.no_grad():
        first, second = (DETECTION.answer(loaded.model, pixels) for loaded in (plain, moved_classes))
    torch.testing.assert_close(second["logits"], first["logits"].flip(-1))
    torch.testing.assert_close(second, DETECTION.in_order(first, [1, 0]))
    assert not plain.new_head and not moved_classes.new_head
    for names in (["blue", "white"], ["blue", "white", "grey"]):
        renamed = DETECTION.load(folders[kind], labels=names)
        assert renamed.new_head and renamed.label_names == names
        assert DETECTION.answer(renamed.model, pixels)["logits"].shape[-1] == len(names)


@pytest.mark.parametrize("build", [rt_detr, yolos])
def test_some_of_the_classes_keep_their_weights(build, pixels, tmp_path):
    model = build()
    config = copy.deepcopy(model.config)
    config.update(label_options(["red", "green", "blue", "white"]))
    folder = saved_detector(type(model)(config), tmp_path)
    whole, some = DETECTION.load(folder), DETECTION.load(folder, labels=["Blue", "red"])
    assert (some.new_head, some.classes_before, some.label_names) == (False, 4, ["Blue", "red"])
    new = DETECTION.load(folder, labels=["Blue", "red"], pretrained=False)
    assert new.new_head and new.classes_before is None
    theirs, changed = whole.model.state_dict(), []
    for name, tensor in some.model.state_dict().items():
        kept = theirs[name]
        if tensor.shape != kept.shape:
            kept = kept[[2, 0, *range(4, len(kept))]]  # and what stands for no object
            changed.append(name)
        assert torch.equal(tensor, kept)
    assert changed
    if build is yolos:  # an RT-DETR chooses by its classes where it looks
        said, expected = (DETECTION.answer(loaded.model, pixels)["logits"] for loaded in (some, whole))
        torch.testing.assert_close(said, expected[..., [2, 0]])


def test_what_is_no_detector_is_refused(folders, tmp_path):
    with pytest.raises(UsageError, match=r"'steps.0.distill' has loss 'dist', which with 'task: detection' has to be"):
        Recipe.from_dict(
            {
                "task": "detection",
                "teacher": "a/b",
                "student": "c/d",
                "data": "e/f",
                "steps": [{"distill": {"loss": "dist"}}],
            }
        )
    small = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])
    save(ResNetForImageClassification(small), tmp_path / "classifier", ViTImageProcessor())
    with pytest.raises(RunError, match="is no object detector: transformers has none of the type 'resnet'"):
        DETECTION.load(str(tmp_path / "classifier"))
    save(yolos(), tmp_path / "plain", ViTImageProcessor(size={"height": SIDE, "width": SIDE}))
    with pytest.raises(RunError, match="its image processor, ViTImageProcessor, makes no boxes"):
        DETECTION.load(str(tmp_path / "plain"))


def test_rtdetr_r18_is_the_published_one_and_can_be_thinner():
    """For the 80 classes of COCO it has 20 M parameters (Zhao et al., 2024, table 2)."""
    with torch.device("meta"):
        published = build_registered("rtdetr_r18", [str(number) for number in range(80)]).model
    assert published.num_parameters() == 20_184_464
    size = {"width": 0.125, "image_size": 128, "processor_class": DETECTION.processor_class}
    student = build_registered("rtdetr_r18", NAMES, **size)
    assert student.model(torch.zeros(1, 3, 128, 128)).logits.shape == (1, 300, 2)
    assert student.model.num_parameters() < 0.05 * published.num_parameters()


@pytest.mark.long
def test_a_batch_whose_length_the_model_asks_for_stays_dynamic():
    exported = exportable(rt_detr(), torch.zeros(1, 3, SIDE, SIDE))
    program = exported.program(dynamic_batch=True).module()
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for found, wanted in zip(program(images), exported.module(images), strict=True):
            torch.testing.assert_close(found, wanted)
