"""Studies: what is accepted, how runs share, and what the error says otherwise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hf_compress import Recipe, Study
from hf_compress.ground.errors import UsageError
from hf_compress.sections.values import is_study, read_recipe, shipped_recipes
from hf_compress.study.config import study_schema

VALUES = {
    "data": {"path": "digits", "augmentation": "light"},
    "image_size": 32,
    "training": {"epochs": 2, "learning_rate": 1e-3},
    "seeds": [0, 1],
    "runs": {
        "small": {"teacher": {"run": "big"}, "student": "resnet18", "steps": [{"distill": {"epochs": 5}}]},
        "big": {"label": "Big one", "student": "resnet50", "steps": ["finetune"]},
    },
}


def study(overrides=None, **values):
    return Study.from_dict(VALUES | values, overrides)


def recipe(name, overrides=None, seed=0, output="out", **values):
    return study(overrides, **values).recipe(name, seed, Path(output))


def test_a_study_is_read_without_torch():
    code = f"import sys, hf_compress\nhf_compress.Study.from_dict({VALUES!r})\nprint('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_training_and_image_size_fill_what_a_run_leaves_open():
    small, big = recipe("small"), recipe("big")
    assert (small.steps[0]["distill"].epochs, small.steps[0]["distill"].learning_rate) == (5, 1e-3)
    assert (big.steps[0]["finetune"].epochs, big.steps[0]["finetune"].batch_size) == (2, 32)
    assert small.student.image_size == big.student.image_size == 32
    prune = {"prune": {"recovery": {"epochs": 3}}}
    pruned = recipe("big", runs={"big": {"student": {"model": "resnet18", "image_size": 64}, "steps": [prune]}})
    assert pruned.student.image_size == 64
    assert pruned.steps[0]["prune"].recovery.learning_rate is None
    finetuned = {"teacher": {"model": "resnet18", "finetune": {"epochs": 9}}, "steps": ["distill"]}
    teacher = recipe("small", runs={"small": {**finetuned, "student": "microsoft/resnet-18"}}).teacher
    assert (teacher.image_size, teacher.finetune.epochs, teacher.finetune.learning_rate) == (32, 9, 1e-3)


def test_image_size_is_not_forced_on_checkpoints():
    runs = {"big": {"student": "microsoft/resnet-50", "steps": ["finetune"]}}
    assert recipe("big", runs=runs).student.image_size is None


def test_a_run_names_another_as_its_teacher_and_gets_the_model_of_the_same_seed():
    assert recipe("small", seed=1).teacher.model == "./out/big-seed-1"
    assert recipe("small", output="/somewhere").teacher.model == "/somewhere/big-seed-0"
    runs = VALUES["runs"] | {
        "pruned": {"student": {"run": "small"}, "steps": ["prune"]},
        "chain": {"chain": [{"run": "big"}, "resnet18", "mobilenet_v2"], "steps": ["distill"]},
    }
    assert recipe("pruned", runs=runs).student.model == "./out/small-seed-0"
    chain = recipe("chain", runs=runs)
    assert chain.teacher.model == "./out/big-seed-0"
    assert [chain.assistants[0].image_size, chain.student.image_size] == [32, 32]


def test_runs_come_behind_those_they_need_and_seed_after_seed():
    assert study().order() == ["big", "small"]
    assert study().jobs() == [("big", 0), ("small", 0), ("big", 1), ("small", 1)]


def test_sections_are_shared_and_a_runs_own_come_first():
    shared = {"teacher": "some/model", "student": "resnet18", "steps": ["distill"]}
    runs = {"mse": {}, "alone": {"teacher": None, "steps": ["finetune"], "data": {"augmentation": "none"}}}
    mse, alone = (recipe(name, runs=runs, **shared) for name in runs)
    assert (mse.teacher.model, mse.step_names, mse.data.augmentation) == ("some/model", ["distill"], "light")
    assert (alone.teacher, alone.step_names) == (None, ["finetune"])
    assert (alone.data.path, alone.data.augmentation) == ("digits", "none")


def test_overrides_reach_what_is_shared_and_what_is_a_runs_own():
    overrides = {
        "data.path": "./photos",
        "seeds": [7],
        "training.epochs": 3,
        "image_size": 64,
        "runs.big.label": "Huge",
        "runs.small.steps.distill.loss": "mse_ce",
        "runs.big.steps.0.finetune.epochs": 4,
    }
    changed = study(overrides)
    assert (changed.seeds, changed.label("big"), changed.label("small")) == ([7], "Huge", "small")
    small, big = (changed.recipe(name, 7, Path("out")) for name in ("small", "big"))
    assert (small.seed, small.data.path, small.student.image_size) == (7, "./photos", 64)
    assert small.steps[0]["distill"].loss == "mse_ce"
    assert big.steps[0]["finetune"].epochs == 4
    assert VALUES["runs"]["big"]["steps"] == ["finetune"]


def test_yaml_round_trip():
    first = study({"training.epochs": 3})
    again = Study.from_dict(yaml.safe_load(first.to_yaml()))
    assert all(again.recipe(*job, Path("x")) == first.recipe(*job, Path("x")) for job in first.jobs())


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"trainig.epochs": 1}, "unknown key 'trainig' (value {'epochs': 1}); did you mean 'training'?"),
        ({"training.epoch": 1}, "unknown key 'training.epoch' (value 1); did you mean 'epochs'?"),
        ({"seed": 1}, "unknown key 'seed' (value 1); did you mean 'seeds'?"),
        ({"seeds": []}, "'seeds' cannot be []"),
        ({"seeds": [1, 1]}, "'seeds' cannot be [1, 1]: a seed is there twice"),
        ({"seeds": [-1]}, "'seeds.0' cannot be -1"),
        ({"runs.big.lable": "x"}, "unknown key 'runs.big.lable' (value 'x'); did you mean 'label'?"),
        ({"runs.big.studnet": "x"}, "unknown key 'runs.big.studnet' (value 'x'); did you mean 'student'?"),
        ({"runs.big.label": 3}, "'runs.big.label' cannot be 3"),
        ({"runs.bgi.label": "x"}, "cannot set 'runs.bgi.label': the study has the runs small, big"),
        ({"runs.big.steps.0": {"finetnue": {}}}, "run 'big': 'steps.0' is the unknown step 'finetnue'"),
        ({"runs.big.steps.finetune.epoch": 1}, "run 'big': unknown key 'steps.0.finetune.epoch' (value 1)"),
        ({"data.pth": 1}, "run 'big': unknown key 'data.pth' (value 1); did you mean 'path'?"),
        ({"runs.small.teacher.run": "bgi"}, "'runs.small' needs the unknown run 'bgi'; did you mean 'big'?"),
        ({"runs.small.teacher": None}, "run 'small': 'steps.0' learns from a teacher"),
        (
            {"runs.big.teacher.run": "small"},
            "the runs small -> big -> small need each other in a circle",
        ),
        ({"runs.big.student": {"run": "big"}}, "the runs big -> big need each other in a circle"),
    ],
)
def test_an_error_names_the_key_the_value_and_the_nearest(overrides, says):
    with pytest.raises(UsageError) as caught:
        study(overrides)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        ({"../x": {}}, "'runs.../x' names a folder"),
        ({}, "'runs' cannot be {}"),
        (["big"], "a study is a mapping in which 'runs' names the runs"),
        (None, "a study is a mapping in which 'runs' names the runs"),
        ({"big": "resnet18"}, "'runs.big' cannot be 'resnet18'"),
    ],
)
def test_runs_are_named_and_have_sections(runs, says):
    with pytest.raises(UsageError) as caught:
        study(runs=runs)
    assert says in str(caught.value)


def test_what_is_no_study_is_refused_and_a_study_is_no_recipe():
    with pytest.raises(UsageError, match="a study is a mapping"):
        Study.load("quickstart")
    with pytest.raises(UsageError, match="'leaf-disease-table' is a study of several runs"):
        Recipe.load("leaf-disease-table")


def test_shipped_studies_are_valid():
    studies = [name for name in shipped_recipes() if is_study(read_recipe(name))]
    assert "leaf-disease-table" in studies
    for name in studies:
        Study.load(name)


def test_the_leaf_study_is_the_founding_articles_with_a_control():
    """Adam, learning rate 1e-4, batch 32, 20 epochs, 256 pixels, thirds: see the article's table."""
    leaf = Study.load("leaf-disease-table")
    recipes = {name: leaf.recipe(name, 0, Path("out")) for name in leaf.order()}
    rows = {
        name: (made.teacher and made.teacher.model, made.student.model, made.step_names)
        for name, made in recipes.items()
    }
    assert rows == {
        "resnet50": (None, "resnet50", ["finetune"]),
        "resnet18": (None, "resnet18", ["finetune"]),
        "resnet18-mse": ("./out/resnet50-seed-0", "resnet18", ["distill"]),
        "resnet18-mse-ce": ("./out/resnet50-seed-0", "resnet18", ["distill"]),
        "mobilenet-chain": ("./out/resnet18-mse-seed-0", "mobilenet_v2", ["distill"]),
        "mobilenet-mse": ("./out/resnet50-seed-0", "mobilenet_v2", ["distill"]),
        "mobilenet": (None, "mobilenet_v2", ["finetune"]),
    }
    losses = {name: made.steps[0]["distill"].loss for name, made in recipes.items() if made.step_names == ["distill"]}
    assert [name for name, loss in losses.items() if loss == "mse_ce"] == ["resnet18-mse-ce"]
    for made in recipes.values():
        (training,) = made.steps[0].values()
        article = (training.optimizer, training.learning_rate, training.batch_size, training.epochs)
        assert article == ("adam", 1e-4, 32, 20)
        assert made.student.image_size == 256
        assert made.data.splits.train == pytest.approx(made.data.splits.test, abs=1e-3)
        assert made.data.splits.train == pytest.approx(made.data.splits.validation, abs=1e-3)


def test_the_schema_describes_what_is_shared_and_what_is_a_runs_own():
    schema = json.loads(json.dumps(study_schema()))
    run = schema["$defs"]["StudyRun"]
    assert schema["required"] == ["runs"]
    assert schema["additionalProperties"] is run["additionalProperties"] is False
    sections = {
        "task",
        "teacher",
        "assistants",
        "chain",
        "student",
        "data",
        "steps",
        "control",
        "deploy",
        "measure",
        "track",
    }
    assert set(schema["properties"]) == sections | {"image_size", "training", "seeds", "runs"}
    assert set(run["properties"]) == sections | {"label"}
    for key in ("teacher", "student"):
        assert any("run" in option.get("properties", {}) for option in run["properties"][key]["anyOf"])
