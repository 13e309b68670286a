"""What is said before a distillation: the teacher's figure, and why nothing can come of it; and who is not trained."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import yaml

from hf_compress import Recipe, load, save
from hf_compress.data import load_data
from hf_compress.data.images import noise, preprocess
from hf_compress.models.students import build_registered
from hf_compress.run.remarks import before_distilling, fewer_classes, no_int8_file, not_trained
from hf_compress.run.teacher import is_trained, load_teachers, train_teachers
from hf_compress.sections.data import DataSection
from hf_compress.tasks.base import Predictions
from hf_compress.tasks.classification import CLASSIFICATION

TINY = {"model": "resnet18", "width": 0.125, "image_size": 16}
PRETRAINED = "some/classifier"
SPLITS = {"train": "train[:96]", "validation": "train[300:400]", "test": "train[400:440]"}
DIGITS = [str(digit) for digit in range(10)]
MANY = {"distill": {"epochs": 200}}


def recipe(**sections):
    values = {
        "teacher": PRETRAINED,
        "student": PRETRAINED,
        "data": {"path": "digits", "splits": SPLITS},
        "steps": [MANY],
    }
    return Recipe.from_dict(values | sections)


def said(recipe, right=100, rows=({"stage": "teacher"},), by_teacher=False):
    """Return the remarks on a teacher that is right on so many of 100 images, and how often it was asked."""
    asked = []
    data = load_data(recipe.data, seed=0)
    data.by_teacher = by_teacher

    def predict(teacher, images):
        asked.append(teacher)
        logits = torch.nn.functional.one_hot(torch.tensor(images.labels), 10).float()
        logits[right:] = logits[right:].roll(1, dims=1)
        return Predictions({"logits": logits}, torch.tensor(images.labels))

    units = SimpleNamespace(value=lambda name, compute: compute())
    stages = SimpleNamespace(rows=list(rows))
    return list(before_distilling(recipe, "teacher", data, stages, units, predict)), len(asked)


def advised(remarks):
    """Return the keys that remarks name, each with its value or None."""
    found = re.findall(r"'([a-z_.0-9]+)(?:: ([\w.]+))?'", " ".join(remarks))
    return {key: value or None for key, value in found}


def test_what_the_teacher_has_on_validation_is_always_told():
    assert said(recipe(), right=93) == (["the teacher has accuracy 0.9300 on 100 validation images"], 1)


def test_a_figure_that_its_training_found_is_taken():
    epochs = [{"validation_accuracy": 0.5}, {"validation_accuracy": 0.75}, {"validation_accuracy": 0.25}]
    details = {"best_epoch": 2, "epochs": epochs}
    trained = [{"stage": "teacher", "details": details}]
    assert said(recipe(), rows=trained) == (["the teacher has accuracy 0.7500 on 100 validation images"], 0)
    chain = recipe(assistants=[PRETRAINED])
    rows = [{"stage": "teacher"}, {"stage": "assistant 1", "details": details}]
    assert said(chain, rows=rows) == (["assistant 1 has accuracy 0.7500 on 100 validation images"], 0)


@pytest.mark.parametrize(("right", "chance"), [(10, True), (19, True), (20, False)])
def test_a_teacher_at_chance_is_told(right, chance):
    """13 of the 100 validation images are of the largest class, a standard error is 0.0336: up to 19.7 is chance."""
    labels = load_data(recipe().data, seed=0).validation.labels
    largest = max(labels.count(digit) for digit in range(10)) / 100
    limit = largest + 2 * (largest * (1 - largest) / 100) ** 0.5
    remarks, _ = said(recipe(), right=right)
    assert any("always naming the largest class" in remark for remark in remarks) == chance == (right / 100 <= limit)


TRAINED = {"details": {"best_epoch": 1, "epochs": [{"validation_accuracy": 0.1}]}}
CHANCE = {
    "a checkpoint": ({}, {}, {"teacher": None, "teacher.finetune.always": "true"}),
    "trained here": ({"teacher": {"model": PRETRAINED, "finetune": {}}}, TRAINED, {"teacher.finetune.epochs": None}),
    "several": ({"teacher": {"ensemble": [PRETRAINED, PRETRAINED]}}, {}, {"teacher.ensemble": None}),
    "an assistant": ({"assistants": [PRETRAINED]}, TRAINED, {"assistants": None}),
}


@pytest.mark.parametrize("case", CHANCE)
def test_what_to_do_about_a_teacher_at_chance_are_keys_of_the_recipe(case):
    sections, row, keys = CHANCE[case]
    stage = "assistant 1" if "assistants" in sections else "teacher"
    remarks, _ = said(recipe(**sections), right=5, rows=[{"stage": stage} | row])
    assert len(remarks) == 2
    assert keys.items() <= advised(remarks).items()
    assert_keys_exist(recipe(**sections), advised(remarks))


def assert_keys_exist(recipe, keys):
    for key, value in keys.items():
        if value is not None:
            Recipe.from_dict(yaml.safe_load(recipe.to_yaml()), {key: yaml.safe_load(value)})
            continue
        section = recipe
        for part in key.split("."):
            section = section[int(part)] if part.isdigit() else getattr(section, part)


FINETUNE = {"finetune": {"epochs": 100}}
SAME = "the teacher learnt from the very 96 labelled images that the student gets, and from nothing else"
ENSEMBLE = {"ensemble": [TINY | {"finetune": {}}, TINY | {"finetune": {}}]}


@pytest.mark.parametrize(
    ("sections", "same"),
    [
        ({"teacher": TINY | {"finetune": {}}}, True),
        ({"teacher": ENSEMBLE}, True),
        ({"teacher": {"ensemble": [TINY | {"finetune": {}}, PRETRAINED]}}, False),
        ({"teacher": TINY | {"finetune": {}}, "assistants": [TINY]}, True),
        ({"teacher": TINY | {"finetune": {}}, "assistants": [PRETRAINED]}, False),
        ({"teacher": {"model": PRETRAINED, "finetune": {}}}, False),
        ({"teacher": TINY | {"finetune": {}}, "data": {"path": "digits", "splits": SPLITS, "labelled": 0.5}}, False),
    ],
)
def test_a_teacher_that_has_seen_nothing_else_is_told(sections, same):
    stages = [{"stage": "teacher"}, {"stage": "assistant 1"}]
    remarks, _ = said(recipe(**sections), rows=stages)
    assert any(remark.startswith(SAME) for remark in remarks) == same
    assert_keys_exist(recipe(**sections), advised(remarks))


def distil(epochs, **options):
    return {"distill": {"epochs": epochs, **options}}


@pytest.mark.parametrize(
    ("student", "steps", "advice"),  # an epoch of 96 images is 3 steps
    [
        (TINY, [distil(166)], {"steps.0.distill.epochs": "167", "student.pretrained": "auto"}),
        (TINY, [distil(167)], {}),
        (TINY, [distil(10, batch_size=16)], {"steps.0.distill.epochs": "84", "student.pretrained": "auto"}),
        (TINY, [distil(6, batch_size=50)], {"steps.0.distill.epochs": "250", "student.pretrained": "auto"}),
        (
            TINY,
            [{"finetune": {"epochs": 100}}, distil(60)],
            {"steps.1.distill.epochs": "67", "student.pretrained": "auto"},
        ),
        (TINY, [FINETUNE, distil(67)], {}),
        ({"model": PRETRAINED, "pretrained": False}, [distil(1)], {"steps.0.distill.epochs": "167"}),
        (PRETRAINED, [distil(1)], {}),
        ("teacher", [distil(1)], {}),
    ],
)
def test_too_few_steps_for_random_weights_are_told_and_how_many_epochs_are_enough(student, steps, advice):
    found = recipe(student=student, steps=steps)
    keys = advised(said(found)[0])
    assert keys.items() >= advice.items() and bool(keys) == bool(advice)
    assert_keys_exist(found, keys)
    if advice:
        enough = Recipe.from_dict(
            yaml.safe_load(found.to_yaml()), {k: int(v) for k, v in advice.items() if v.isdigit()}
        )
        assert len(said(enough)[0]) == 1


def test_nothing_is_said_where_no_class_is_learnt_from_a_teacher():
    assert said(recipe(steps=["prune"])) == said(recipe(steps=[{"distill": {"loss": "ce"}}])) == ([], 0)
    assert said(recipe(), by_teacher=True) == ([], 0)
    features = {"task": "features", "steps": ["distill_features"], "student": TINY}
    assert said(recipe(**features)) == ([], 0)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return what saves a classifier of the given labels, and gives the recipe of a teacher to be trained."""

    def saved(labels, **finetune):
        built = build_registered("resnet18", labels, width=0.125, image_size=16)
        folder = tmp_path_factory.mktemp("teacher")
        save(built.model, folder, built.processor)
        return {"model": str(folder), "finetune": {"epochs": 1, **finetune}}

    return saved


@pytest.mark.parametrize(
    ("labels", "finetune", "named", "trained"),
    [
        (DIGITS, {}, True, False),
        (DIGITS[::-1], {}, True, False),
        (DIGITS, {"always": True}, True, True),
        (DIGITS, {}, False, True),
        ([f"LABEL_{digit}" for digit in DIGITS], {}, True, True),
        ([*DIGITS[:9], "ten"], {}, True, True),
        ([*DIGITS, "ten"], {}, True, True),
    ],
)
def test_a_teacher_that_knows_the_classes_is_not_trained_unless_asked(checkpoint, labels, finetune, named, trained):
    found = recipe(teacher=checkpoint(labels, **finetune))
    data = load_data(found.data, seed=0)
    data.named = named
    teachers, data = load_teachers(found, data, [0], log=lambda line: None)
    assert is_trained(found.teacher, teachers[0], data, CLASSIFICATION) == trained
    remarks = list(not_trained(found, teachers, data))
    if trained:
        assert remarks == []
        return
    weights = {name: tensor.clone() for name, tensor in teachers[0].model.state_dict().items()}
    (same,), details = train_teachers(found, teachers, data, [0], None, print)
    assert details == [None]
    assert all(torch.equal(same.model.state_dict()[name], tensor) for name, tensor in weights.items())
    name = found.teacher.model
    assert remarks == [
        f"teacher {name} knows the classes of the data and was not trained again; "
        "'teacher.finetune.always: true' would train it"
    ]
    assert_keys_exist(found, advised([remarks[0].replace(name, "")]))


WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
MORE = ["ten", *WORDS[::-1], "a dozen, twelve"]


@pytest.mark.parametrize(("finetune", "trained"), [(None, False), ({"epochs": 1}, True)])
def test_a_teacher_of_more_classes_keeps_those_of_the_data_and_is_trained_where_asked(checkpoint, finetune, trained):
    teacher = checkpoint(MORE) | {"finetune": finetune}
    found = recipe(teacher=teacher)
    data = replace(load_data(found.data, seed=0), label_names=WORDS)
    (some,), same = load_teachers(found, data, [0], log=lambda line: None)
    assert same.label_names == some.label_names == WORDS and same.train.labels == data.train.labels
    whole = load(teacher["model"])
    picture = preprocess(whole.processor, noise(1))
    with torch.no_grad():
        expected, answer = (each.model(pixel_values=picture).logits for each in (whole, some))
    torch.testing.assert_close(answer, expected[:, 1:11].flip(1))
    assert is_trained(found.teacher, some, data, CLASSIFICATION) == trained
    assert list(not_trained(found, [some], data)) == []
    assert list(fewer_classes([some, whole])) == [
        f"of the 12 classes of teacher {teacher['model']} its classifier keeps the 10 of the data"
    ]


def test_models_with_random_weights_are_trained_and_each_member_is_named(checkpoint):
    ensemble = {"ensemble": [TINY | {"finetune": {}}, checkpoint(DIGITS), PRETRAINED]}
    found = recipe(teacher=ensemble)
    members = found.teacher.members
    data = load_data(DataSection(path="digits", splits=SPLITS), seed=0)
    random = build_registered("resnet18", DIGITS, width=0.125, image_size=16)
    loaded = SimpleNamespace(name="loaded", new_head=False, classes_before=None)
    assert [is_trained(each, random, data, CLASSIFICATION) for each in members] == [True, True, False]
    (remark,) = not_trained(found, [random, loaded, loaded], data)
    assert "'teacher.ensemble.1.finetune.always: true' would train it" in remark


def test_a_training_for_int8_that_leaves_no_such_file_is_told():
    (sentence,) = no_int8_file(recipe(steps=["quantize"], deploy=["onnx"]))
    assert "deploy: [{to: onnx, int8: true}]" in sentence
    assert not list(no_int8_file(recipe(steps=["quantize"], deploy=[{"to": "onnx", "int8": True}])))
    assert not list(no_int8_file(recipe()))
