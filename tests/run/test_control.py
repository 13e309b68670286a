"""The control: the same student, the same steps, the labels alone; and what is said of a run that has one."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from reports import report, with_control
from rich.console import Console
from transformers import AutoImageProcessor, AutoModelForImageClassification, set_seed

from hf_compress import Recipe, compress
from hf_compress.data import load_data
from hf_compress.ground.errors import Diverged, UsageError
from hf_compress.models.students import build_registered
from hf_compress.report.card_facts import steps_table, summary
from hf_compress.report.gallery import write_gallery
from hf_compress.report.run import check_report, write_run
from hf_compress.report.table import report_table
from hf_compress.run import control
from hf_compress.run.stages import Stages
from hf_compress.steps.pruning import Prune
from hf_compress.training import fitting
from hf_compress.training.context import Context
from hf_compress.training.predicting import evaluate

TINY = {"model": "resnet18", "width": 0.125, "image_size": 16}
TRAINING = {"epochs": 1, "learning_rate": 3e-3}
SPLITS = {"train": "train[:64]", "validation": "train[300:340]", "test": "train[400:460]"}
HINTS = {"loss": "hints", "weight": 0.1, "layers": {"resnet.encoder.stages.0": "resnet.encoder.stages.1"}}
DISTILL = {"distill": {**TRAINING, "losses": [{"loss": "mse"}, HINTS]}}
PRUNE = {"amount": 0.25, "iterative": False, "round_to": 1, "repair": "none", "calibration": 16}
RECOVERY = {**TRAINING, "loss": "kl_ce"}


def recipe(**sections):
    return Recipe.from_dict(
        {
            "teacher": {**TINY, "finetune": TRAINING},
            "student": TINY,
            "data": {"path": "digits", "splits": SPLITS, "augmentation": "light"},
            "measure": {"batch_size": 1, "repeats": 3},
            "steps": [DISTILL, {"prune": PRUNE | {"recovery": RECOVERY}}],
        }
        | sections
    )


def quietly(name, tmp_path, **sections):
    resume = sections.pop("resume", False)
    return compress(recipe(**sections), tmp_path / name, resume=resume, log=lambda line: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of one step, with a control; and of each training of the student, its first weights and its teacher."""
    lines, trainings, train = [], [], fitting.train

    def spy(model, context, config, teacher=None):
        trainings.append((copy.deepcopy(model.state_dict()), teacher, context.teacher))
        return train(model, context, config, teacher)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "train", spy)
        controlled = recipe(steps=[DISTILL], control=True)
        return compress(controlled, tmp_path_factory.mktemp("control") / "out", log=lines.append), lines, trainings


@pytest.mark.long
@pytest.mark.parametrize("name", ["distill", "prune"])
def test_a_control_makes_the_epochs_that_fitted_into_the_minutes(name, tmp_path):
    training = {**TRAINING, "loss": "kl", "minutes": 0.01, "epochs": 500}
    step = {"distill": training} if name == "distill" else {"prune": PRUNE | {"recovery": training}}
    report = quietly("minutes", tmp_path, steps=[step], control=True).report
    made, again = report["rows"][-1]["details"], report["control"]["details"]["steps"][f"1 {name}"]
    if name == "prune":
        ([made], [again]) = made["rounds"], again["rounds"]
    assert len(again["epochs"]) == math.ceil(made["time_budget"]["epochs"]) < 500
    assert "time_budget" not in again


def test_the_control_learns_from_no_teacher(run):
    (first, *teachers), (again, *no_teachers) = run[2]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert None not in teachers and no_teachers == [None, None]


def test_the_result_is_compared_with_it_image_by_image(run):
    report, lines = run[0].report, run[1]
    found = [entry for entry in report["rows"][-1]["differences"] if entry["against"] == "control"]
    assert [entry["metric"] for entry in found] == ["accuracy", "roc_auc"]
    for entry in found:
        gain = report["rows"][-1]["quality"][entry["metric"]] - report["control"]["quality"][entry["metric"]]
        assert entry["difference"] == pytest.approx(gain)
        assert entry["low"] <= entry["difference"] <= entry["high"]
    assert {entry["against"] for entry in report["control"]["differences"]} == {"teacher"}
    assert "latency" not in report["control"] and list(report["control"]["details"]["steps"]) == ["1 distill"]
    assert "control, step 1 of 1: distill, from the labels alone" in lines


def test_no_weights_of_it_are_left(run):
    folder = run[0].folder
    model = AutoModelForImageClassification.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    data = load_data(recipe().data, seed=0)
    found = evaluate(model, processor, data, "test")["roc_auc"]
    assert found == pytest.approx(run[0].report["rows"][-1]["quality"]["roc_auc"])
    assert found != pytest.approx(run[0].report["control"]["quality"]["roc_auc"])
    assert [path.name for path in folder.parent.iterdir()] == ["out"]
    assert len(list(folder.rglob("*.safetensors"))) == 1


def test_without_a_teacher_distilling_is_finetuning(tmp_path):
    """The same weights, to the bit: images, their order and views, schedule and loss are those of `finetune`."""
    small = build_registered("resnet18", [str(digit) for digit in range(10)], width=0.125, image_size=16)
    data = load_data(recipe().data, seed=0).augmented("light", small.processor)
    distill, finetune = recipe(steps=[DISTILL, {"finetune": TRAINING}]).build_steps()
    trained = []
    for step in (distill.on_labels(), finetune):
        set_seed(0)
        context = Context(data, small.processor, None, 0, tmp_path, log=lambda line: None)
        trained.append(step.apply(copy.deepcopy(small.model), context))
    first, second = (result.model.state_dict() for result in trained)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert trained[0].details == trained[1].details


@pytest.mark.long
def test_a_control_makes_as_many_steps_as_a_student_that_has_more_images(tmp_path, monkeypatch):
    counted, evaluated = [], fitting.fit

    def count(build, *arguments):
        before = []
        made = evaluated(lambda *given, **options: before.append(build(*given, **options)) or before[-1], *arguments)
        counted.append((before[-1].state.global_step, before[-1].train_dataset.views))
        return made

    monkeypatch.setattr(fitting, "fit", count)
    data = {"path": "digits", "splits": SPLITS, "labelled": 0.5, "augmentation": "light", "views": 3}
    steps = [DISTILL, {"finetune": TRAINING}]
    quietly("out", tmp_path, data=data, steps=steps, control=True)
    assert counted[1:] == [(2, 3), (1, 3), (2, None), (1, 3)]


def test_a_control_that_fails_costs_the_result_nothing(tmp_path, monkeypatch):
    def diverges(*_):
        raise Diverged("the training loss became nan", {"step": 3})

    monkeypatch.setattr(control, "apply_once", diverges)
    lines, stages = [], SimpleNamespace(remarks=[], rows=[{"stage": "1 distill"}])
    context = Context(load_data(recipe().data, seed=0), None, None, 0, tmp_path, log=lines.append)
    control.train_control(recipe(steps=[DISTILL], control=True), None, context, stages, None)
    (remark,) = stages.remarks
    assert remark.startswith("there is no control, whose step 1 failed: the training loss became nan (step 3)")
    assert lines[-1] == remark


@pytest.mark.long
def test_whole_runs_with_and_without_it_and_of_what_it_does(tmp_path):
    """An interruption of the control costs none of its trainings; nothing else depends on there being one."""

    def lost(*_):
        raise KeyboardInterrupt

    plain = quietly("plain", tmp_path)
    labels = [{"finetune": TRAINING}, {"prune": PRUNE | {"recovery": TRAINING | {"loss": "ce"}}}]
    alone = quietly("alone", tmp_path, steps=labels).report["rows"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stages, "add_control", lost)
        with pytest.raises(KeyboardInterrupt):
            quietly("control", tmp_path, control=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "fit", lost)
        run = quietly("control", tmp_path, control=True, resume=True)
    found, same = run.report["control"], ("model", "quality", "classes", "reliability")
    assert {key: found[key] for key in same} == {key: alone[-1][key] for key in same}
    steps = found["details"]["steps"]
    assert [steps["1 distill"], steps["2 prune"]["rounds"]] == [alone[2]["details"], alone[3]["details"]["rounds"]]
    weights = [(each.folder / "model.safetensors").read_bytes() for each in (run, plain)]
    assert weights[0] == weights[1]
    assert [row["quality"] for row in run.report["rows"]] == [row["quality"] for row in plain.report["rows"]]
    assert "control" not in plain.report
    files = [{str(file.relative_to(each.folder)) for file in each.folder.rglob("*")} for each in (run, plain)]
    assert files[0] - files[1] == {"figures/control.png"}


@pytest.mark.parametrize(
    ("steps", "refused"),
    [
        ([DISTILL], None),
        ([{"finetune": TRAINING}, {"distill": {"loss": "kl"}}], None),
        ([{"distill": {"loss": "ce"}}, DISTILL], None),
        (["prune"], None),
        ([{"prune": {"recovery": {"loss": "hints", "layers": {"a": "b"}}}}], None),
        (
            [{"finetune": TRAINING}],
            "'control' is for steps that learn from a teacher, and none of these does: leave",
        ),
        ([{"distill": {"loss": "ce"}}], "none of these does"),
        ([{"prune": {"recovery": {"loss": "ce"}}}], "none of these does"),
        ([{"prune": {"recovery": {"epochs": 0}}}], "none of these does"),
    ],
)
def test_where_nothing_is_distilled_there_is_no_control(steps, refused):
    if refused is None:
        for step in recipe(steps=steps, control=True).build_steps():
            trains = step.on_labels().config
            assert not isinstance(step, Prune) or trains.recovery.labels_only
        return
    assert not recipe(steps=steps).control
    with pytest.raises(UsageError, match=refused):
        recipe(steps=steps, control=True)


def test_embeddings_cannot_be_learnt_from_labels():
    sections = {"task": "features", "teacher": "a/b", "steps": ["distill_features"], "control": True}
    with pytest.raises(UsageError, match=r"'steps\.0\.distill_features' cannot: leave it out"):
        recipe(**sections)


def test_without_any_label_it_is_refused_before_the_first_training(run, tmp_path, unlabelled_photos):
    sections = {"teacher": str(run[0].folder), "data": unlabelled_photos, "steps": ["distill"], "control": True}
    with pytest.raises(UsageError, match="no training image has one: leave it out"):
        compress(recipe(**sections), tmp_path / "out", log=lambda line: None)
    assert not list(tmp_path.glob("out*"))


def test_terminal_card_and_gallery_show_both(tmp_path):
    content = with_control(report())
    console = Console(width=200)
    with console.capture() as shown:
        console.print(report_table(content))
    lines = {line.split("│")[1].strip(): line for line in shown.get().splitlines() if line.count("│") > 2}
    assert [cell.strip() for cell in lines["accuracy"].split("│")[2:5]] == ["1.0000", "0.9000", "0.7800"]
    assert [cell.strip() for cell in lines["points against the control"].split("│")[2:5]] == [
        "",
        "+3.00 to +21.00",
        "",
    ]
    assert summary(content)[2] == (
        "Its control, the same student that learnt from the labels alone, has accuracy 0.7800; this model against it: "
        "12.00 points higher (+3.00 to +21.00 points)."
    )
    assert [row[:3] for row in steps_table(content)[1]][-1] == [
        "control",
        "the same student and steps, from the labels alone",
        "0.7800",
    ]
    (tmp_path / "run").mkdir()
    write_run(tmp_path / "run", "", content)
    write_gallery(str(tmp_path), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert (
        "run, control</a>" in page and page.count("accuracy against the control +12.00 points (+3.00 to +21.00)") == 1
    )


def test_a_gain_over_a_control_that_is_not_there_is_no_report():
    content = with_control(report())
    check_report(content, "report.json")
    del content["control"]
    with pytest.raises(UsageError, match=r"'rows\.1\.differences' name a control, which has no 'accuracy'"):
        check_report(content, "report.json")
