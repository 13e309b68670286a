"""A task that the package does not know: a detector with several outputs, judged by an error, in one class."""

import csv
import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForObjectDetection, ViTImageProcessor, YolosConfig, YolosForObjectDetection
from typer.testing import CliRunner

from hf_compress import Recipe, compress, export
from hf_compress.checkpoint import save
from hf_compress.cli import app
from hf_compress.data import load_data
from hf_compress.data.images import IGNORED_LABEL, batches, spread
from hf_compress.ground.errors import RunError, UsageError
from hf_compress.models.load import LoadedModel, open_model
from hf_compress.sections.base import TrainingConfig
from hf_compress.sections.data import DataSection
from hf_compress.steps.pruning.allocate.shares import shares_for_budget
from hf_compress.steps.pruning.score.calibration import Calibration
from hf_compress.steps.rewriting import Rewrite
from hf_compress.steps.rewriting.config import RewriteConfig
from hf_compress.tasks import TASKS, Metric, Task, register_task
from hf_compress.tools.evaluation import evaluate_folder
from hf_compress.training.arguments import training_arguments
from hf_compress.training.context import Context

SPLITS = {"train": "train[:60]", "validation": "train[60:90]", "test": "train[90:120]"}
DATA = {"path": "digits", "splits": SPLITS}
FAST = {"epochs": 2, "batch_size": 20, "learning_rate": 0.003}


class Centres(Task):
    """The first query tells a digit's class and where its ink is: the mean row and column."""

    name = "centres"
    auto_class = "AutoModelForObjectDetection"
    pipeline_tag = "object-detection"
    noun = "finder of digits"
    usage = ("    boxes = model(**inputs).pred_boxes",)
    deciding = Metric("centre_error", "error of the centre", higher_is_better=False)
    metrics = (deciding, Metric("first_accuracy", "accuracy of the first query", share=True, hub_name="Accuracy"))

    def load(self, name, *, labels=None, **options):
        opened = open_model(name, AutoModelForObjectDetection, "is no detector: transformers has none of", **options)
        return LoadedModel(opened.model, opened.processor, name, opened.commit, bool(opened.missing))

    def targets(self, items, processor):
        ink = torch.stack([item["view"].float().mean(dim=0) + 1 for item in items])
        places = torch.linspace(0, 1, ink.shape[-1])
        centres = [(ink.sum(dim=dim) * places).sum(dim=1) / ink.sum(dim=(1, 2)) for dim in (1, 2)]
        return {"labels": torch.stack([torch.tensor([float(item["label"]) for item in items]), *centres], dim=1)}

    def loss(self, output, batch):
        return self._distance(output.logits, output.pred_boxes, batch["labels"])

    def compare(self, loss, student, teacher, batch):
        rows = [outputs["logits"].flatten(0, 1) for outputs in (student, teacher)]
        return loss(*rows, None) + F.l1_loss(student["pred_boxes"], teacher["pred_boxes"])

    def quality(self, predictions):
        boxes, labels = predictions.outputs["pred_boxes"], predictions.labels
        right = predictions.outputs["logits"][:, 0].argmax(dim=1) == labels[:, 0]
        error = (boxes[:, 0, :2] - labels[:, 1:]).abs().mean()
        return {"centre_error": error.item(), "first_accuracy": right.double().mean().item()}

    @staticmethod
    def _distance(logits, boxes, labels):
        return F.cross_entropy(logits[:, 0], labels[:, 0].long()) + F.l1_loss(boxes[:, 0, :2], labels[:, 1:])


@pytest.fixture
def task():
    yield register_task(Centres())
    TASKS._entries.pop(Centres.name)


def saved(folder, intermediate_size):
    torch.manual_seed(0)
    config = YolosConfig(
        image_size=[32, 32],
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=intermediate_size,
        num_detection_tokens=3,
        id2label={index: str(index) for index in range(10)},
        use_mid_position_embeddings=False,
    )
    save(YolosForObjectDetection(config).eval(), folder, ViTImageProcessor(size={"height": 32, "width": 32}))
    return str(folder)


@pytest.fixture
def recipe(task, tmp_path):
    prune = {"amount": 0.5, "iterative": False, "round_to": 1, "recovery": FAST}
    return Recipe.from_dict(
        {
            "task": "centres",
            "teacher": {"model": saved(tmp_path / "teacher", 48), "finetune": FAST | {"always": True}},
            "student": saved(tmp_path / "student", 32),
            "data": DATA,
            "steps": [{"distill": FAST}, {"finetune": FAST}, {"prune": prune}],
            "measure": {"repeats": 3},
        }
    )


def test_it_goes_from_a_recipe_to_a_published_folder_without_a_change_of_the_package(recipe, tmp_path):
    lines = []
    run = compress(recipe, tmp_path / "run", log=lines.append)
    rows = {row["stage"]: row for row in run.report["rows"]}
    assert list(rows) == ["teacher", "student", "1 distill", "2 finetune", "3 prune"]
    assert all(set(row["quality"]) == {"centre_error", "first_accuracy"} for row in rows.values())
    assert rows["3 prune"]["cost"]["parameters"] < 0.95 * rows["2 finetune"]["cost"]["parameters"]
    for stage in ("teacher", "1 distill", "2 finetune"):
        details = rows[stage]["details"]
        errors = [epoch["validation_centre_error"] for epoch in details["epochs"]]
        assert errors[details["best_epoch"] - 1] == min(errors)
    (done,) = rows["3 prune"]["details"]["rounds"]
    assert any(f"error of the centre {done['validation_centre_error']:.4f}" in line for line in lines)

    model = AutoModelForObjectDetection.from_pretrained(run.folder)
    assert model(torch.zeros(1, 3, 32, 32)).pred_boxes.shape == (1, 3, 4)
    again = evaluate_folder(str(run.folder), None)["quality"]
    assert again == pytest.approx(rows["3 prune"]["quality"], abs=1e-6)

    card = (run.folder / "README.md").read_text()
    assert "pipeline_tag: object-detection" in card
    assert "finder of digits for 10 classes" in card
    assert "AutoModelForObjectDetection.from_pretrained" in card
    assert "boxes = model(**inputs).pred_boxes" in card
    assert "| error of the centre" in card
    assert json.loads((run.folder / "report.json").read_text())["task"] == "centres"


def test_sensitivity_and_export_judge_by_its_metric(recipe, tmp_path):
    folder = tmp_path / "teacher"
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    file = tmp_path / "out" / "sensitivity.csv"
    options = ["--ratio", "0.5", "--importance", "taylor", "--output", str(file.parent)]
    result = CliRunner().invoke(app, ["sensitivity", str(folder), *options])
    assert result.exit_code == 0, result.output
    with open(file, encoding="utf-8") as source:
        rows = list(csv.DictReader(source))
    assert list(rows[0]) == ["name", "size", "ratio", "centre_error", "drop", "repair"]
    before = evaluate_folder(str(folder), None, "validation")["quality"]["centre_error"]
    found = [(float(row["centre_error"]), float(row["drop"])) for row in rows]
    assert [drop for _, drop in found] == pytest.approx([error - before for error, _ in found], abs=1e-6)
    error, drop = max(found)
    assert f"error of the centre is {error:.4f} (+{drop:.4f})" in result.output
    sizes = {row["name"]: int(row["size"]) for row in rows}
    shares = shares_for_budget(str(file), sizes, 0.3)
    assert sum(share * sizes[name] for name, share in shares.items()) == pytest.approx(0.3 * sum(sizes.values()))

    (row,) = export(folder, "pt2")
    assert row["quality"] == pytest.approx(evaluate_folder(str(folder), None)["quality"], abs=1e-3)


def test_taylor_importance_takes_its_loss(task, tmp_path):
    loaded = task.load(saved(tmp_path / "model", 48))
    data = load_data(DataSection(**DATA), 0)
    items = spread(data.train, 8)
    (found,) = Calibration(items, loaded.processor, loaded.model, task).gradients(loaded.model)

    (batch,) = batches(items, loaded.processor, 8, task.targets)
    task.loss(task.forward(loaded.model, batch), batch).backward()
    expected = {name: parameter.grad for name, parameter in loaded.model.named_parameters()}
    torch.testing.assert_close(
        found, {name: torch.zeros_like(found[name]) if grad is None else grad for name, grad in expected.items()}
    )
    assert found["bbox_predictor.layers.2.weight"].any() and found["class_labels_classifier.layers.2.weight"].any()

    unlabelled = spread(data.train.with_labels([IGNORED_LABEL] * len(data.train)), 8)
    with pytest.raises(RunError, match="'task: centres' needs labels"):
        next(Calibration(unlabelled, loaded.processor, loaded.model, task).gradients(loaded.model))


def test_a_round_that_makes_the_error_larger_than_allowed_is_rolled_back(task):
    metric = task.deciding
    assert metric.keeps(0.21, before=0.2, most=0.02) and not metric.keeps(0.23, before=0.2, most=0.02)
    assert metric.best([0.3, 0.1, 0.1, 0.2]) == 1
    assert metric.lost(0.3, before=0.2) == pytest.approx(0.1)
    rising = Metric("accuracy", "accuracy")
    assert rising.keeps(0.19, before=0.2, most=0.02) and not rising.keeps(0.17, before=0.2, most=0.02)
    assert rising.best([0.1, 0.3, 0.3]) == 1
    assert rising.lost(0.3, before=0.2) == pytest.approx(-0.1)


def test_the_epoch_with_the_lowest_error_is_kept(task, tmp_path):
    data = load_data(DataSection(**DATA), 0)
    context = Context(data, ViTImageProcessor(), None, 0, tmp_path, task=task)
    arguments = training_arguments(TrainingConfig(), context, tmp_path)
    assert (arguments.metric_for_best_model, arguments.greater_is_better) == ("centre_error", False)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": ["distill_features"]}, "distill_features' is a step of task 'features', .* use distill, finetune"),
        ({"student": {"model": "auto", "budget": {"macs": 1e6}}}, "'task: centres' does not have: name a student"),
        ({"teacher": {"ensemble": ["a/b", "c/d"]}}, "'task: centres' leaves out: name one teacher"),
        ({"data": {**DATA, "cutmix": 1.0}}, "mix classes, which 'task: centres' leaves out"),
    ],
)
def test_what_it_does_not_offer_is_refused(task, change, says):
    values = {"task": "centres", "teacher": "a/b", "student": "c/d", "data": DATA, "steps": ["distill"]}
    with pytest.raises(UsageError, match=says):
        Recipe.from_dict(values | change)


def test_a_head_that_gives_no_logit_a_class_is_not_found(recipe, tmp_path):
    recipe.teacher.finetune.layers = "head"
    with pytest.raises(RunError, match="not found: it does not give each image one logit for each of its 10 classes"):
        compress(recipe, tmp_path / "run", log=lambda line: None)


def test_a_rewrite_is_judged_by_all_outputs_whatever_the_labels_are(task, tmp_path):
    loaded, lines = task.load(saved(tmp_path / "model", 48)), []
    before = loaded.model.vit.encoder.layer[0].intermediate.intermediate_act_fn
    data = load_data(DataSection(**DATA), 0)
    data = replace(data, validation=data.validation.with_labels([{"boxes": []}] * len(data.validation)))
    context = Context(data, loaded.processor, None, 0, tmp_path, log=lines.append, task=task)
    details = Rewrite(RewriteConfig(kind="activations", images=8)).apply(loaded.model, context).details
    assert before is not loaded.model.vit.encoder.layer[0].intermediate.intermediate_act_fn
    assert details["top1_agreement"] is None
    assert f"outputs off by {details['logits_error']['rewritten']:.1%}" in lines[-1]


def test_no_student_is_selected_by_an_error(task, monkeypatch):
    monkeypatch.setattr(Centres, "selects", True)
    student = {"model": "auto", "budget": {"macs": 1e6}}
    values = {"task": "centres", "teacher": "a/b", "student": student, "data": DATA, "steps": ["distill"]}
    with pytest.raises(UsageError, match="compares accuracies, which 'task: centres' does not have"):
        Recipe.from_dict(values)


def test_a_student_without_labelled_images_is_refused_where_answers_are_no_targets(task, tmp_path):
    with pytest.raises(Exception, match="needs labels"):
        task.as_targets(None)
